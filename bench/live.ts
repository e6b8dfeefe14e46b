/**
 * Question: when 100 readers follow a primary under load, how long is it from the primary's flush
 * to the last of them, and what does it cost, below a node and below a cascading standby?
 */
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { type PostgresTools, findTools } from '../test/harness/postgres-tools.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { Followers, percentile } from './followers.ts';
import {
  type Bench,
  type BenchContext,
  ProgramMissing,
  READER_CORES,
  type Readings,
} from './frame.ts';
import { initPgbench, makeRestingPrimary, pgbench, startRelay, startStandby } from './pairs.ts';
import { cpuSeconds } from './process-usage.ts';
import { walSenderPids } from './servers.ts';

const WHAT = 'following pgbench';
const MEDIAN = 'ms to the last, p50';
const TAIL = 'ms to the last, p99';
const SENDING = 'cores';
const WITH_RECEIVING = 'cores, receiving included';
const POSTGRES = 'PostgreSQL standby';
const PRIMARY = 'PostgreSQL primary itself';

export const live: Bench = {
  name: 'live',
  question:
    "When 100 readers follow pgbench, how long is it from the primary's flush to the last of " +
    'them, and what does it cost, below a node and below a cascading standby?',
  aims: [
    { what: WHAT, unit: TAIL, of: { side: POSTGRES }, atMost: 1 },
    { what: WHAT, unit: SENDING, of: { side: POSTGRES }, atMost: 0.5 },
    { what: WHAT, unit: WITH_RECEIVING, of: { side: POSTGRES }, atMost: 0.5 },
  ],
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const tools = await findTools(['pgbench']);
  if (tools === undefined) throw new ProgramMissing('pgbench');
  const seconds = choose({ full: 15, short: 5, smoke: 1 });
  const readers = choose({ full: 100, short: 100, smoke: 4 });
  const rate = 100;
  const load: FollowedLoad = { tools, seconds, rate };
  const make = async (name: string): Promise<PostgresCluster> => {
    const primary = await makeRestingPrimary(tree, name);
    await initPgbench(tools, primary, choose({ full: 10, short: 5, smoke: 1 }));
    return primary;
  };
  const sides = {
    walcade: await belowNode(tree, await make('primary-node'), readers),
    [POSTGRES]: await belowStandby(tree, await make('primary-standby'), readers),
    [PRIMARY]: await belowPrimary(tree, await make('primary-alone'), readers),
  };
  await alternate(WHAT, {
    walcade: () => measure(sides.walcade, load),
    [POSTGRES]: () => measure(sides[POSTGRES], load),
    [PRIMARY]: () => measure(sides[PRIMARY], load),
  });
  return (
    `${readers} readers in one process; pgbench at ${rate} transactions a second, ` +
    `${seconds} s a run; from the moment when the ` +
    "primary's own WAL sender sends; the CPU of PostgreSQL is that of its WAL senders, of the " +
    'node that of the whole process; each has a primary of its own, the others rest'
  );
}

interface FollowedLoad {
  tools: PostgresTools;
  seconds: number;
  rate: number;
}

/** Readers who follow a server, and the processes that serve them. */
interface Followed {
  primary: PostgresCluster;
  followers: Followers;
  sending: readonly number[];
  receiving: readonly number[];
}

async function belowNode(
  tree: TestDirectory,
  primary: PostgresCluster,
  readers: number,
): Promise<Followed> {
  const { port, pid } = await startRelay(tree, { name: 'node', upstream: primary.conninfo });
  const followers = await Followers.start(tree, { primary, port, readers });
  return { primary, followers, sending: [pid], receiving: [] };
}

async function belowStandby(
  tree: TestDirectory,
  primary: PostgresCluster,
  readers: number,
): Promise<Followed> {
  const upstream = primary.conninfo;
  const standby = await startStandby(tree, primary, { name: 'standby', upstream });
  const followers = await Followers.start(tree, { primary, port: standby.port, readers });
  const receiver = await standby.walReceiverPid();
  if (receiver === undefined) throw new Error('the standby has no WAL receiver');
  return {
    primary,
    followers,
    sending: await walSenderPids(standby, 'bench'),
    receiving: [receiver],
  };
}

async function belowPrimary(
  tree: TestDirectory,
  primary: PostgresCluster,
  readers: number,
): Promise<Followed> {
  const followers = await Followers.start(tree, { primary, port: primary.port, readers });
  return { primary, followers, sending: await walSenderPids(primary, 'bench'), receiving: [] };
}

async function measure(
  { primary, followers, sending, receiving }: Followed,
  { tools, seconds, rate }: FollowedLoad,
): Promise<Readings> {
  const before = { sending: await cpuSeconds(sending), receiving: await cpuSeconds(receiving) };
  const arrivals = await followers.during(() =>
    pgbench(tools, primary, { clients: 4, seconds, rate }),
  );
  const used = (await cpuSeconds(sending)) - before.sending;
  const usedReceiving = (await cpuSeconds(receiving)) - before.receiving;
  return {
    [MEDIAN]: percentile(arrivals.atLast, 0.5),
    [TAIL]: percentile(arrivals.atLast, 0.99),
    [SENDING]: used / seconds,
    [WITH_RECEIVING]: (used + usedReceiving) / seconds,
    [READER_CORES]: arrivals.cpuSeconds / seconds,
  };
}
