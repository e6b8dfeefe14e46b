/**
 * Question: what do readers that catch up cost the sending server, in CPU seconds for each GB
 * served, and how many MB/s do all of them get, beside PostgreSQL's WAL senders?
 */
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { WalcadeNode } from '../test/harness/walcade-node.ts';
import { type Bench, type BenchContext, READER_CORES, type Readings } from './frame.ts';
import { cpuSeconds } from './process-usage.ts';
import { type ReaderReport, startReaders } from './readers.ts';
import {
  type WalRange,
  lastOf,
  makePrimary,
  makeRelay,
  makeWal,
  walSenderPids,
} from './servers.ts';

const CPU = 'CPU s/GB';
const SPEED = 'MB/s in all';
const MEGABYTES = 1e6;
const GIGABYTES = 1e9;
const of = { side: 'PostgreSQL' };

export const fanOut: Bench = {
  name: 'fan-out',
  question:
    'What do readers that catch up cost the sending server, and how fast are they served, beside ' +
    "PostgreSQL's WAL senders?",
  aims: [
    { what: named(1), unit: CPU, of, atMost: 1 },
    { what: named(16), unit: CPU, of, atMost: 0.6 },
    { what: named(64), unit: CPU, of, atMost: 0.6 },
    { what: named(1), unit: SPEED, of, atLeast: 1 },
    { what: named(16), unit: SPEED, of, atLeast: 1.3 },
  ],
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const primary = await makePrimary(tree);
  const long = await makeWal(primary, choose({ full: 600, short: 200, smoke: 16 }));
  const short = lastOf(long, choose({ full: 150, short: 50, smoke: 16 }));
  const relay = await makeRelay(tree, primary, long);
  for (const count of choose({ full: [1, 4, 16, 64], short: [1, 4, 16, 64], smoke: [1, 4] })) {
    const range = count > 16 ? short : long;
    await alternate(named(count), {
      walcade: () => fromRelay(relay, count, range),
      PostgreSQL: () => fromPostgres(primary, count, range),
    });
  }
  const megabytes = (range: WalRange): number => Math.round(range.bytes / MEGABYTES);
  return (
    `to each reader ${megabytes(long)} MB of WAL, with 64 readers ${megabytes(short)} MB, over ` +
    'TCP on loopback; readers in one process that throws WAL away'
  );
}

function named(count: number): string {
  return count === 1 ? '1 reader' : `${count} readers`;
}

/** Each reader has a WAL sender process of its own. */
async function fromPostgres(
  primary: PostgresCluster,
  count: number,
  range: WalRange,
): Promise<Readings> {
  const readers = await startReaders(primary.port, count, range);
  const pids = await walSenderPids(primary, 'bench');
  if (pids.length !== count) throw new Error(`found ${pids.length} WAL senders of ${count}`);
  const cpu = await cpuSeconds(pids);
  await readers.end();
  return readings(readers, { served: count * range.bytes, cpu });
}

async function fromRelay(relay: WalcadeNode, count: number, range: WalRange): Promise<Readings> {
  const before = await cpuSeconds([relay.pid]);
  const readers = await startReaders(relay.port, count, range);
  const cpu = (await cpuSeconds([relay.pid])) - before;
  await readers.end();
  return readings(readers, { served: count * range.bytes, cpu });
}

function readings(
  readers: ReaderReport,
  { served, cpu }: { served: number; cpu: number },
): Readings {
  return {
    [CPU]: cpu / (served / GIGABYTES),
    [SPEED]: served / MEGABYTES / readers.seconds,
    [READER_CORES]: readers.cpuSeconds / readers.seconds,
  };
}
