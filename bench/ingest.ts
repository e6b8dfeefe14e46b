/** Question: how fast is WAL received, proven and made durable, beside a standby's WAL receiver? */
import { formatLsn, parseLsn } from '../src/wal/lsn.ts';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { waitFor } from '../test/harness/wait.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { cpuSeconds, residentMegabytes } from './process-usage.ts';
import { Readers, type WalRange } from './servers.ts';

export interface IngestRun {
  megabytesPerSecond: number;
  /** CPU seconds of the receiving process per GB; unknown for the bare stream. */
  cpuPerGb?: number;
  residentMb?: number;
}

/** The same range received by a process that throws it away: what the upstream can send. */
export async function bareStream(primary: PostgresCluster, range: WalRange): Promise<IngestRun> {
  const { readers, seconds } = await Readers.run(primary.port, 1, range);
  await readers.end();
  return { megabytesPerSecond: range.bytes / 1e6 / seconds };
}

/** A new relay, from its start to the moment when the whole range is durable. */
export async function relayIngest(
  tree: TestDirectory,
  primary: PostgresCluster,
  { range, run }: { range: WalRange; run: number },
): Promise<IngestRun> {
  const relay = await WalcadeNode.init(tree, {
    name: `ingest${run}`,
    upstream: primary.conninfo,
    args: ['--no-slot', '--start-lsn', formatLsn(range.start)],
  });
  const began = performance.now();
  await relay.start();
  await relay.waitForWal(range.end);
  const seconds = (performance.now() - began) / 1000;
  const cpu = await cpuSeconds([relay.pid]);
  const { peak } = await residentMegabytes(relay.pid);
  await relay.stop('fast');
  return {
    megabytesPerSecond: range.bytes / 1e6 / seconds,
    cpuPerGb: (cpu * 1e9) / range.bytes,
    residentMb: peak,
  };
}

/** A new standby made from `backup`: its WAL receiver over the same range, replaying beside it. */
export async function standbyIngest(
  tree: TestDirectory,
  primary: PostgresCluster,
  { range, run, backup }: { range: WalRange; run: number; backup: string },
): Promise<IngestRun> {
  const standby = await PostgresCluster.standby(tree, {
    name: `standby${run}`,
    from: backup,
    upstreamConninfo: primary.conninfo,
    settings: { max_wal_senders: 100, wal_receiver_status_interval: '1s', fsync: true },
  });
  await standby.start();
  await waitFor('the WAL receiver', async () => (await standby.walReceiverPid()) !== undefined);
  const pid = (await standby.walReceiverPid()) ?? 0;
  const began = await primary.sql(
    'select extract(epoch from backend_start) from pg_stat_replication ' +
      `where application_name = 'standby${run}'`,
  );
  await waitFor('the whole range', async () => {
    const flushed = await standby.sql('select flushed_lsn from pg_stat_wal_receiver');
    return flushed !== '' && parseLsn(flushed) >= range.end;
  });
  const seconds = Date.now() / 1000 - Number(began);
  const cpu = await cpuSeconds([pid]);
  await standby.stop('immediate');
  return { megabytesPerSecond: range.bytes / 1e6 / seconds, cpuPerGb: (cpu * 1e9) / range.bytes };
}
