/**
 * The process bench/follower.ts as a member of a bench: it follows a primary and a server below it
 * until the bench ends it, and tells when each message of the primary has arrived.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type Interface, createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { alignDown, formatLsn } from '../src/wal/lsn.ts';
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { Member, TestDirectory } from '../test/harness/test-directory.ts';
import type { Arrivals } from './follower.ts';

const PROGRAM = fileURLToPath(new URL('follower.ts', import.meta.url));
const SEGMENT_BYTES = 16 * 1024 * 1024;

export class Followers implements Member {
  readonly name = 'followers';
  readonly #process: ChildProcess;
  readonly #lines: Interface;

  private constructor(process: ChildProcess, lines: Interface) {
    this.#process = process;
    this.#lines = lines;
  }

  /** Starts the process; resolves when all readers have what the primary has written so far. */
  static async start(
    tree: TestDirectory,
    { primary, port, readers }: { primary: PostgresCluster; port: number; readers: number },
  ): Promise<Followers> {
    // Something to receive: what a server asked for its own end sends is nothing.
    await primary.sql('select pg_logical_emit_message(true, $1, $1)', ['bench']);
    const end = await primary.currentLsn();
    const range = [formatLsn(alignDown(end, SEGMENT_BYTES)), formatLsn(end)];
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', PROGRAM, `${primary.port}`, `${port}`, `${readers}`, ...range],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    const followers = new Followers(child, createInterface({ input: child.stdout }));
    tree.add(followers);
    const said = await followers.#line();
    if (said !== 'following') throw new Error(`the readers ended: ${said}`);
    return followers;
  }

  /** What arrived while `load` ran. */
  async during(load: () => Promise<unknown>): Promise<Arrivals> {
    this.#process.stdin?.write('begin\n');
    await load();
    this.#process.stdin?.write('end\n');
    return JSON.parse(await this.#line()) as Arrivals;
  }

  /** Ends the connections and the process. */
  async end(): Promise<void> {
    if (this.#process.exitCode !== null) return;
    const exited = once(this.#process, 'exit');
    this.#process.stdin?.end();
    await exited;
  }

  async #line(): Promise<string> {
    const [said] = (await Promise.race([
      once(this.#lines, 'line'),
      once(this.#process, 'exit'),
    ])) as [unknown];
    return String(said);
  }
}

/** The value that the part `p` of `values` is not above. */
export function percentile(values: readonly number[], p: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(Math.floor(sorted.length * p), sorted.length - 1)] ?? Number.NaN;
}
