/**
 * A node of the demo, made and run as a person does it: with bin/walcade, in the background. Each
 * command is printed as it is run. The demo's directory ends the node, however far it has come.
 */
import type { ChildProcess } from 'node:child_process';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { NodeStatus } from '../src/admin/node-status.ts';
import { runningPid } from '../src/node/node-lock.ts';
import { killTree } from '../test/harness/process-tree.ts';
import { ServerLog } from '../test/harness/server-log.ts';
import { SqlServer } from '../test/harness/sql-server.ts';
import type { Member, TestDirectory } from '../test/harness/test-directory.ts';
import { waitFor } from '../test/harness/wait.ts';
import { type CommandOptions, runCommand } from './command.ts';
import { SOCKET_DIRECTORIES } from './ports.ts';
import { showCommand, showEdit } from './screen.ts';

const STOP_SECONDS_MAX = 10;

export interface DemoNodeOptions {
  name: string;
  port: number;
  signal: AbortSignal;
}

export class DemoNode extends SqlServer implements Member {
  readonly name: string;
  readonly port: number;
  readonly log: ServerLog;
  /** Of the demo; the node's own is in it and has the node's name. */
  readonly #directory: string;
  readonly #signal: AbortSignal;

  /** A node that is in the care of `tree`, and not made yet. */
  constructor(tree: TestDirectory, { name, port, signal }: DemoNodeOptions) {
    super();
    this.name = name;
    this.port = port;
    this.#directory = tree.path;
    this.#signal = signal;
    this.log = new ServerLog(join(this.directory, 'walcade.log'));
    tree.add(this);
  }

  get directory(): string {
    return join(this.#directory, this.name);
  }

  protected get sqlHost(): string {
    return '127.0.0.1';
  }

  /** Makes the node, with a hot standby out of a base backup of `upstream`, a conninfo. */
  async init(upstream: string): Promise<void> {
    const where = ['-D', this.name, '--upstream', upstream, '--port', String(this.port)];
    await this.#run(['walcade', 'init', ...where, '--with-postgres'], endAtOnce);
  }

  /** Makes the node from the directory of another one, which is stopped. */
  async copyFrom(other: DemoNode): Promise<void> {
    await this.#run(['cp', '-a', other.name, this.name], endAtOnce);
  }

  /** Replaces settings of walcade.conf, each of which must be in it once. */
  async edit(edits: readonly { before: string; after: string }[]): Promise<void> {
    const file = join(this.directory, 'walcade.conf');
    let text = await readFile(file, 'utf8');
    for (const { before, after } of edits) {
      const [start = '', end, ...more] = text.split(`\n${before}`);
      if (end === undefined || more.length > 0)
        throw new Error(`"${before}" is not once in ${file}`);
      text = `${start}\n${after}${end}`;
    }
    showEdit(join(this.name, 'walcade.conf'), edits);
    await writeFile(file, text);
  }

  /** Starts the node and waits until it serves WAL and answers SQL. */
  async start(): Promise<void> {
    await this.#run(['walcade', 'start', '-D', this.name], (command) => {
      // What goes wrong with this is met again at the demo's end.
      this.#breakOffStart(command).catch(() => {});
    });
  }

  /** Makes the node's server a primary; resolves once it takes writes. */
  async promote(): Promise<void> {
    await this.#run(['walcade', 'promote', '-D', this.name]);
  }

  async stop(): Promise<void> {
    await this.closeSql();
    await this.#run(['walcade', 'stop', '-D', this.name]);
  }

  /** What `walcade status --json` prints; it is asked often, so it is not shown. */
  async status(): Promise<NodeStatus> {
    const command = ['walcade', 'status', '-D', this.name, '--json'];
    const options = { directory: this.#directory, signal: this.#signal };
    return JSON.parse(await runCommand(command, options)) as NodeStatus;
  }

  async end(): Promise<void> {
    await this.closeSql();
    if ((await runningPid(this.directory)) === undefined) return;
    const seconds = String(STOP_SECONDS_MAX);
    const command = ['walcade', 'stop', '-D', this.name, '--timeout', seconds];
    await runCommand(command, { directory: this.#directory }).catch(() => this.#kill());
  }

  /** Stops the node as soon as it runs, be it half started: `walcade start` ends then too. */
  async #breakOffStart(command: ChildProcess): Promise<void> {
    await waitFor(
      `${this.name} to run, or not to start`,
      async () => hasEnded(command) || (await runningPid(this.directory)) !== undefined,
    );
    await this.end();
  }

  async #kill(): Promise<void> {
    const pid = await runningPid(this.directory);
    if (pid === undefined) return;
    await killTree(pid);
    for (const each of SOCKET_DIRECTORIES) {
      await rm(join(each, `.s.PGSQL.${this.port}`), { force: true });
    }
  }

  async #run(words: readonly string[], onAbort?: CommandOptions['onAbort']): Promise<void> {
    showCommand(words);
    const options = { directory: this.#directory, signal: this.#signal };
    await runCommand(words, onAbort === undefined ? options : { ...options, onAbort });
  }
}

/** For a command that takes back what it did, or whose work nobody misses. */
function endAtOnce(command: ChildProcess): void {
  command.kill('SIGTERM');
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}
