/**
 * The place and the life of one test: its directory, and every server, proxy and connection in
 * it. When the test ends, however it ends, all of them are stopped in reverse order, the ports
 * are released and the directory is removed (kept if `WALCADE_TEST_KEEP` is set).
 *
 * A test that failed shows the end of each server's log; one that passed fails yet if a member
 * complains, say of a WARNING that nobody announced. A test that hangs loses its servers.
 */
import { chmod, mkdir, mkdtemp, realpath, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { releasePort, reservePort } from './free-port.ts';
import type { ServerLog } from './server-log.ts';

const TEST_DURATION_MS_MAX = 240_000;
const LOG_TAIL_LINES = 60;

/** Something that lives no longer than its test. */
export interface Member {
  readonly name: string;
  readonly log?: ServerLog;
  /** Stops it, at once and without fail; called also if it is stopped already. */
  end(): Promise<void>;
  /** What is wrong with how it went, once it is stopped; empty if nothing is. */
  complaints?(): Promise<string[]>;
}

const live = new Set<TestDirectory>();

let isWatching = false;

/** A test runner ends a file that takes too long with SIGTERM: what its servers said is shown. */
function showLogsWhenTerminated(): void {
  if (isWatching) return;
  isWatching = true;
  process.once('SIGTERM', () => {
    const shown = [...live].map((directory) => directory.showLogs('terminated by SIGTERM'));
    void Promise.allSettled(shown).finally(() => process.exit(143));
  });
}

export class TestDirectory {
  readonly path: string;
  /** The directory of the whole run of tests, which removes it; undefined outside of one. */
  readonly runDirectory: string | undefined;
  readonly #root: string;
  readonly #members: Member[] = [];
  readonly #ports: number[] = [];
  #expired = false;

  private constructor(root: string, path: string, runDirectory?: string) {
    this.#root = root;
    this.path = path;
    this.runDirectory = runDirectory;
  }

  /** A fresh directory for `test`, which everybody may enter and only the owner may change. */
  static async create(test: TestContext): Promise<TestDirectory> {
    const directory = await TestDirectory.open();
    const watchdog = setTimeout(() => void directory.#expire(), TEST_DURATION_MS_MAX);
    test.after(async () => {
      clearTimeout(watchdog);
      await directory.close({ hasFailed: hasFailed(test) });
    });
    return directory;
  }

  /** A directory for who calls `close` himself: a program that is no test. */
  static async open(): Promise<TestDirectory> {
    const runDirectory = process.env['WALCADE_TEST_DIRECTORY'];
    const root = runDirectory ?? (await realpath(tmpdir()));
    const path = await mkdtemp(join(root, 'test-'));
    await chmod(path, 0o755);
    const directory = new TestDirectory(root, path, runDirectory);
    live.add(directory);
    showLogsWhenTerminated();
    return directory;
  }

  /** The existing directory `path`, for what is no test; `remove` ends its members, deletes it. */
  static standalone(path: string): TestDirectory {
    return new TestDirectory(path, path);
  }

  /** Stops every member, in reverse order, and removes the directory unless it is to be kept. */
  async remove({ keep }: { keep: boolean }): Promise<string[]> {
    const complaints = await this.#endMembers();
    if (!keep) await rm(this.path, { recursive: true, force: true, maxRetries: 5 });
    return complaints;
  }

  /** Puts `member` in the care of this directory. */
  add<M extends Member>(member: M): M {
    this.#members.push(member);
    return member;
  }

  /** Makes directory `name` and gives its path. */
  async makeDirectory(name: string): Promise<string> {
    const path = join(this.path, name);
    await mkdir(path);
    await chmod(path, 0o755);
    return path;
  }

  /** A TCP port that is nobody else's until the test ends. */
  async reservePort(): Promise<number> {
    const port = await reservePort(this.#root);
    this.#ports.push(port);
    return port;
  }

  /** Writes the end of every member's log to standard error. */
  async showLogs(why: string): Promise<void> {
    for (const { name, log } of this.#members) {
      if (log === undefined) continue;
      const tail = await log.tail(LOG_TAIL_LINES);
      process.stderr.write(`${why}; the end of the log of ${name}:\n${tail}\n`);
    }
  }

  /** Ends the members and removes the directory; throws what they complain of. */
  async close({ hasFailed: failed }: { hasFailed: boolean }): Promise<void> {
    live.delete(this);
    const complaints = this.#expired ? [`the test ran longer than ${TEST_DURATION_MS_MAX} ms`] : [];
    complaints.push(...(await this.#endMembers()));
    if (!failed) {
      for (const member of this.#members) complaints.push(...((await member.complaints?.()) ?? []));
    }
    if (failed || complaints.length > 0) await this.showLogs('the test failed');
    for (const port of this.#ports) await releasePort(this.#root, port);
    if (process.env['WALCADE_TEST_KEEP'] === undefined) {
      await rm(this.path, { recursive: true, force: true, maxRetries: 5 });
    }
    if (complaints.length > 0) throw new Error(complaints.join('\n'));
  }

  async #endMembers(): Promise<string[]> {
    const complaints: string[] = [];
    for (const member of this.#members.toReversed()) {
      try {
        await member.end();
      } catch (error) {
        complaints.push(`could not end ${member.name}: ${String(error)}`);
      }
    }
    return complaints;
  }

  async #expire(): Promise<void> {
    this.#expired = true;
    await this.showLogs('the test hangs');
    await this.#endMembers();
  }
}

/** In an after hook: whether the test failed. (The type lacks what Node.js 20 has.) */
function hasFailed(test: TestContext): boolean {
  return (test as TestContext & { readonly passed?: boolean }).passed === false;
}
