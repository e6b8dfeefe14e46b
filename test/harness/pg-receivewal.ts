/**
 * A pg_receivewal of the machine as a downstream of a test: it receives into a directory of its
 * own until its test ends.
 */
import { readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { isSegmentName } from '../../src/wal/segment.ts';
import type { PostgresTools } from './postgres-tools.ts';
import { ServerLog } from './server-log.ts';
import { ServerProcess } from './server-process.ts';
import type { Member, TestDirectory } from './test-directory.ts';

export interface ReceiveWalOptions {
  conninfo: string;
  name: string;
  /** Further arguments. */
  args?: readonly string[];
}

/** Starts pg_receivewal; undefined if the machine has none. */
export async function receiveWithTool(
  tree: TestDirectory,
  tools: PostgresTools | undefined,
  { conninfo, name, args = [] }: ReceiveWalOptions,
): Promise<ReceiveWal | undefined> {
  if (tools === undefined) return undefined;
  const directory = await tree.makeDirectory(name);
  const log = new ServerLog(join(tree.path, `${name}.log`));
  const process = await ServerProcess.spawn({
    name,
    program: tools.path('pg_receivewal'),
    args: ['-D', directory, '-d', conninfo, '--no-loop', ...args],
    log,
    environment: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8' },
  });
  return tree.add(new ReceiveWal(process, directory, log));
}

class ReceiveWal implements Member {
  readonly name: string;
  readonly log: ServerLog;
  readonly #process: ServerProcess;
  readonly #directory: string;

  constructor(process: ServerProcess, directory: string, log: ServerLog) {
    this.name = process.name;
    this.#process = process;
    this.#directory = directory;
    this.log = log;
  }

  /** The names of the segments that are complete here. */
  async segments(): Promise<string[]> {
    return (await readdir(this.#directory)).filter(isSegmentName).sort();
  }

  read(name: string): Promise<Buffer> {
    return readFile(join(this.#directory, name));
  }

  /** The segment of that name in the pg_wal of the server in `directory`. */
  readFrom(directory: string, name: string): Promise<Buffer> {
    return readFile(join(directory, 'pg_wal', name));
  }

  async end(): Promise<void> {
    await this.#process.stop('SIGINT');
  }

  /** It must have run, without a word of complaint, until it was stopped. */
  async complaints(): Promise<string[]> {
    const errors = (await this.log.text()).match(/^.*error:.*$/gm) ?? [];
    return errors.map((line) => `${this.name}: ${line}`);
  }
}
