/**
 * Question: how fast is WAL received, proven and made durable, and for how many CPU seconds a GB,
 * beside pg_receivewal and a standby's WAL receiver, which prove nothing? And what does the proof
 * cost by itself, beside pg_waldump, which checks the same of each record?
 *
 * pg_receivewal refuses a server newer than itself, so the upstream of all is an installed
 * PostgreSQL with its tools; without one there is no pg_receivewal to compare with.
 */
import { execFile } from 'node:child_process';
import { open, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type Lsn, formatLsn, lsn, parseLsn, timelineId } from '../src/wal/lsn.ts';
import { segmentName } from '../src/wal/segment.ts';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { type PostgresTools, findTools } from '../test/harness/postgres-tools.ts';
import { ServerLog } from '../test/harness/server-log.ts';
import { ServerProcess } from '../test/harness/server-process.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { waitFor } from '../test/harness/wait.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { type Bench, type BenchContext, READER_CORES, type Readings } from './frame.ts';
import { cpuSeconds } from './process-usage.ts';
import { startReaders } from './readers.ts';
import { SEGMENT_BYTES, type WalRange, makePrimary, makeWal } from './servers.ts';

const execute = promisify(execFile);
const PROVE = fileURLToPath(new URL('prove.ts', import.meta.url));
const RECEIVED = 'received and durable';
const PROOF = 'proof of stored WAL';
const CPU = 'CPU s/GB';
const SPEED = 'MB/s';

export const ingest: Bench = {
  name: 'ingest',
  question:
    'How fast is WAL received, proven and made durable, beside pg_receivewal and a ' +
    "standby's WAL receiver, which prove nothing?",
  aims: [
    { what: RECEIVED, unit: SPEED, of: { side: 'pg_receivewal' }, atLeast: 1 },
    { what: PROOF, unit: CPU, atMost: 0.5 },
  ],
  run,
};

interface Upstream {
  tree: TestDirectory;
  primary: PostgresCluster;
  range: WalRange;
  /** A base backup from before the range. */
  backup: string;
}

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const tools = await findTools(['pg_receivewal', 'pg_waldump']);
  const primary = await makePrimary(tree, { binaries: tools?.binaries });
  const backup = await primary.backup(join(tree.path, 'backup'));
  const range = await makeWal(primary, choose({ full: 600, short: 200, smoke: 16 }));
  const upstream: Upstream = { tree, primary, range, backup };
  await alternate(RECEIVED, {
    walcade: (number) => byNode(upstream, number),
    ...(tools && { pg_receivewal: (number: number) => byTool(upstream, tools, number) }),
    "standby's WAL receiver": (number) => byStandby(upstream, number),
    'thrown away': () => thrownAway(upstream),
  });
  await alternate(PROOF, {
    walcade: () => proveByWalker(upstream),
    ...(tools && { pg_waldump: () => proveByTool(upstream, tools) }),
  });
  return (
    `${Math.round(range.bytes / 1e6)} MB of WAL from PostgreSQL ${primary.binaries.major}, from ` +
    'the connection to the fsync of the last byte; CPU of the receiving process; the standby ' +
    'replays on the same cores; "thrown away" is what the upstream can send; the proof alone is ' +
    'measured in a process of its own, pg_waldump (--quiet) with its reading of the files'
  );
}

/**
 * A node that has started before its upstream can be reached, so that only receiving is counted.
 */
async function byNode(upstream: Upstream, number: number): Promise<Readings> {
  const { tree, primary, range } = upstream;
  const relay = await WalcadeNode.init(tree, {
    name: `node${number}`,
    upstream: primary.conninfo,
    args: ['--no-slot', '--start-lsn', formatLsn(range.start)],
    settings: { wal_retrieve_retry_interval: '100ms' },
  });
  await relay.configure({ primary_conninfo: 'host=127.0.0.1 port=1 user=postgres' });
  await relay.start();
  const cpuBefore = await cpuSeconds([relay.pid]);
  await relay.configure({ primary_conninfo: primary.conninfo });
  relay.reload();
  const began = await connected(primary);
  await relay.waitForWal(range.end);
  const seconds = Date.now() / 1000 - began;
  const cpu = (await cpuSeconds([relay.pid])) - cpuBefore;
  await relay.end();
  await rm(relay.directory, { recursive: true });
  return rates(range, { seconds, cpu });
}

/** pg_receivewal goes on from the last segment that it finds, so it finds one. */
async function byTool(
  { tree, primary, range }: Upstream,
  tools: PostgresTools,
  number: number,
): Promise<Readings> {
  const name = `receivewal${number}`;
  const directory = await tree.makeDirectory(name);
  await makeSparseSegment(directory, lsn(range.start - BigInt(SEGMENT_BYTES)));
  const receiver = await ServerProcess.spawn({
    name,
    program: tools.path('pg_receivewal'),
    args: ['-D', directory, '-d', primary.conninfo, '--no-loop'],
    log: new ServerLog(join(tree.path, `${name}.log`)),
    environment: { PATH: '/usr/bin:/bin', LC_ALL: 'C.UTF-8' },
  });
  const began = await connected(primary);
  const last = segmentName(timelineId(1), lsn(range.end - BigInt(SEGMENT_BYTES)), SEGMENT_BYTES);
  await waitFor('the last segment, which gets its name once it is durable', async () => {
    if (receiver.outcome !== undefined) throw await receiver.earlyExit();
    return stat(join(directory, last)).catch(() => undefined);
  });
  const seconds = Date.now() / 1000 - began;
  const cpu = await cpuSeconds([receiver.pid]);
  await receiver.stop('SIGINT');
  await rm(directory, { recursive: true });
  return rates(range, { seconds, cpu });
}

async function byStandby(
  { tree, primary, range, backup }: Upstream,
  number: number,
): Promise<Readings> {
  const standby = await PostgresCluster.standby(tree, {
    name: `standby${number}`,
    from: backup,
    upstreamConninfo: primary.conninfo,
    settings: { max_wal_senders: 100, wal_receiver_status_interval: '1s', fsync: true },
    binaries: primary.binaries,
  });
  await standby.start();
  const pid = await waitFor('the WAL receiver', () => standby.walReceiverPid());
  const began = await connected(primary);
  await waitFor('the whole range', async () => {
    const flushed = await standby.sql('select flushed_lsn from pg_stat_wal_receiver');
    return flushed !== '' && parseLsn(flushed) >= range.end;
  });
  const seconds = Date.now() / 1000 - began;
  const cpu = await cpuSeconds([pid]);
  await standby.end();
  await rm(standby.dataDirectory, { recursive: true });
  return rates(range, { seconds, cpu });
}

async function thrownAway({ primary, range }: Upstream): Promise<Readings> {
  const readers = await startReaders(primary.port, 1, range);
  await readers.end();
  return {
    [SPEED]: range.bytes / 1e6 / readers.seconds,
    [READER_CORES]: readers.cpuSeconds / readers.seconds,
  };
}

async function proveByWalker({ primary, range }: Upstream): Promise<Readings> {
  const wal = join(primary.dataDirectory, 'pg_wal');
  const args = ['--import', 'tsx', PROVE, wal, formatLsn(range.start), formatLsn(range.end)];
  const { stdout } = await execute(process.execPath, args);
  const { cpuSeconds: cpu, bytes } = JSON.parse(stdout) as { cpuSeconds: number; bytes: number };
  return { [CPU]: cpu / (bytes / 1e9) };
}

/** The shell counts the CPU time of the tool, whose process is gone at its end. */
async function proveByTool(
  { primary, range: { start, end, bytes } }: Upstream,
  tools: PostgresTools,
): Promise<Readings> {
  const wal = join(primary.dataDirectory, 'pg_wal');
  const script = '"$@"; status=$?; times; exit $status';
  const range = ['--start', formatLsn(start), '--end', formatLsn(end)];
  const command = [tools.path('pg_waldump'), '--quiet', '--path', wal, ...range];
  const { stdout } = await execute('/bin/sh', ['-c', script, 'sh', ...command]);
  // The second line is about the shell's children: user and system time, as "0m1.234s 0m0.056s".
  const [, ofChildren = ''] = stdout.trim().split('\n');
  const parts = ofChildren.matchAll(/(\d+)m([\d.]+)s/g);
  const cpu = [...parts].reduce((sum, [, m, s]) => sum + 60 * Number(m) + Number(s), 0);
  return { [CPU]: cpu / (bytes / 1e9) };
}

/** When the one downstream that streams was accepted by its upstream, in seconds of the epoch. */
async function connected(primary: PostgresCluster): Promise<number> {
  const began = await waitFor('the stream to begin', () =>
    primary.sql(
      'select extract(epoch from backend_start) from pg_stat_replication ' +
        "where state in ('catchup', 'streaming')",
    ),
  );
  return Number(began);
}

async function makeSparseSegment(directory: string, start: Lsn): Promise<void> {
  const file = await open(join(directory, segmentName(timelineId(1), start, SEGMENT_BYTES)), 'w');
  await file.truncate(SEGMENT_BYTES);
  await file.close();
}

function rates({ bytes }: WalRange, { seconds, cpu }: { seconds: number; cpu: number }): Readings {
  return { [SPEED]: bytes / 1e6 / seconds, [CPU]: cpu / (bytes / 1e9) };
}
