/** Question: what does it cost to serve WAL to readers that catch up, beside PostgreSQL? */
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { WalcadeNode } from '../test/harness/walcade-node.ts';
import { cpuSeconds, residentMegabytes } from './process-usage.ts';
import { Readers, type WalRange } from './servers.ts';

export interface CatchUpRun {
  readers: number;
  /** CPU seconds of the sending server per GB served. */
  cpuPerGb: number;
  /** MB/s to all readers together, the start of the reader process included. */
  megabytesPerSecond: number;
  /** Resident memory of the node while it served, in MB; of the node only. */
  residentMb?: number;
}

const GB = 1e9;

/** PostgreSQL's side: each reader has a WAL sender process of its own. */
export async function catchUpFromPostgres(
  primary: PostgresCluster,
  readers: number,
  range: WalRange,
): Promise<CatchUpRun> {
  const { readers: running, seconds } = await Readers.run(primary.port, readers, range);
  const list = await primary.sql(
    "select string_agg(pid::text, ' ') from pg_stat_replication where application_name ~ '^bench'",
  );
  const senders = list.split(' ').map(Number);
  if (senders.length !== readers) {
    throw new Error(`found ${senders.length} WAL senders of the ${readers} readers`);
  }
  const cpu = await cpuSeconds(senders);
  await running.end();
  return rates(readers, range, { cpu, seconds });
}

export async function catchUpFromRelay(
  relay: WalcadeNode,
  readers: number,
  range: WalRange,
): Promise<CatchUpRun> {
  const before = await cpuSeconds([relay.pid]);
  const { readers: running, seconds } = await Readers.run(relay.port, readers, range);
  const cpu = (await cpuSeconds([relay.pid])) - before;
  const { peak } = await residentMegabytes(relay.pid);
  await running.end();
  return { ...rates(readers, range, { cpu, seconds }), residentMb: peak };
}

function rates(
  readers: number,
  { bytes }: WalRange,
  { cpu, seconds }: { cpu: number; seconds: number },
): CatchUpRun {
  const served = readers * bytes;
  return { readers, cpuPerGb: (cpu * GB) / served, megabytesPerSecond: served / 1e6 / seconds };
}
