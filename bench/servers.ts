/**
 * The servers that the benches measure: a PostgreSQL primary with a range of WAL of known kind, and
 * a relay below it. They live as long as the bench.
 */
import type { PostgresBinaries } from '../test/harness/postgres-binaries.ts';
import { PostgresCluster, type Settings } from '../test/harness/postgres-cluster.ts';
import type { SqlServer } from '../test/harness/sql-server.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { type Lsn, alignDown, formatLsn, lsn } from '../src/wal/lsn.ts';

export const SEGMENT_BYTES = 16 * 1024 * 1024;

export interface WalRange {
  start: Lsn;
  end: Lsn;
  bytes: number;
}

/** A running primary that keeps all its WAL; of the package's PostgreSQL if not said otherwise. */
export async function makePrimary(
  tree: TestDirectory,
  {
    binaries,
    settings = {},
  }: { binaries?: PostgresBinaries | undefined; settings?: Settings } = {},
): Promise<PostgresCluster> {
  const primary = await PostgresCluster.init(tree, {
    name: 'primary',
    binaries,
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
      ...settings,
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

/** The end of a range: about `megabytes` of it, whole segments, and all of it if it has less. */
export function lastOf(range: WalRange, megabytes: number): WalRange {
  const wished = Math.ceil((megabytes * 1024 * 1024) / SEGMENT_BYTES) * SEGMENT_BYTES;
  const bytes = Math.min(wished, range.bytes);
  return { start: lsn(range.end - BigInt(bytes)), end: range.end, bytes };
}

/** A running node without a server that has the range. */
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

/** The process ids of the WAL senders whose downstreams' names open with `prefix`. */
export async function walSenderPids(server: SqlServer, prefix: string): Promise<number[]> {
  const list = await server.sql(
    'select pid from pg_stat_replication where starts_with(application_name, $1)',
    [prefix],
  );
  return list === '' ? [] : list.split('\n').map(Number);
}
