/**
 * The servers that the benches measure: a PostgreSQL primary with a range of WAL of known kind, a
 * relay below it, and reader processes. They live as long as the bench.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { type Lsn, alignDown, formatLsn } from '../src/wal/lsn.ts';

const SEGMENT_BYTES = 16 * 1024 * 1024;

export interface WalRange {
  start: Lsn;
  end: Lsn;
  bytes: number;
}

export async function makePrimary(tree: TestDirectory): Promise<PostgresCluster> {
  const primary = await PostgresCluster.init(tree, {
    name: 'primary',
    settings: {
      wal_keep_size: '20GB',
      max_wal_size: '20GB',
      checkpoint_timeout: '1h',
      max_wal_senders: 100,
      wal_sender_timeout: '10min',
      shared_buffers: '256MB',
      synchronous_commit: false,
      autovacuum: false,
      log_replication_commands: false,
    },
  });
  await primary.start();
  return primary;
}

/** Has the primary write about `megabytes` of WAL by small and middling inserts and updates. */
export async function makeWal(primary: PostgresCluster, megabytes: number): Promise<WalRange> {
  await primary.sql(
    'create table if not exists t (id int, filler text); create index if not exists t_id on t (id)',
  );
  await primary.sql('select pg_switch_wal()');
  const start = alignDown(await primary.currentLsn(), SEGMENT_BYTES);
  let end = start;
  while (Number(end - start) < megabytes * 1024 * 1024) {
    await primary.sql(
      "insert into t select i, repeat('x', (i % 5) * 40) from generate_series(1, 100000) i",
    );
    end = await primary.currentLsn();
  }
  await primary.sql('select pg_switch_wal()');
  end = await primary.currentLsn();
  return { start, end, bytes: Number(end - start) };
}

export async function makeRelay(
  tree: TestDirectory,
  primary: PostgresCluster,
  range: WalRange,
): Promise<WalcadeNode> {
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    args: ['--no-slot', '--start-lsn', formatLsn(range.start)],
    settings: { wal_keep_size: '20GB', wal_sender_timeout: '10min' },
  });
  await relay.start();
  await relay.waitForWal(range.end);
  return relay;
}

const READER = fileURLToPath(new URL('reader.ts', import.meta.url));

/** A process with `readers` connections, all of which have received the whole range. */
export class Readers {
  readonly #process: ChildProcess;

  private constructor(process: ChildProcess) {
    this.#process = process;
  }

  /** Starts the process; resolves when all readers have reached the end, with the seconds taken. */
  static async run(
    port: number,
    readers: number,
    { start, end }: WalRange,
  ): Promise<{ readers: Readers; seconds: number }> {
    const began = performance.now();
    const child = spawn(
      process.execPath,
      ['--import', 'tsx', READER, `${port}`, `${readers}`, formatLsn(start), formatLsn(end)],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    const [text] = (await Promise.race([once(child.stdout, 'data'), once(child, 'exit')])) as [
      unknown,
    ];
    if (!String(text).startsWith('reached')) throw new Error(`the readers ended: ${String(text)}`);
    return { readers: new Readers(child), seconds: (performance.now() - began) / 1000 };
  }

  async end(): Promise<void> {
    const exited = once(this.#process, 'exit');
    this.#process.stdin?.end();
    await exited;
  }
}
