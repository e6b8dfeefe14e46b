/**
 * Question: how many bytes go over the wire between two nodes, and how fast, plain and with zstd,
 * for WAL of small transactions, of COPY and of an index build? And how much more WAL does a link
 * of limited rate carry?
 *
 * A node has the WAL; for each measurement another one is made below it, which has only to connect.
 * The limited link needs network namespaces, so root; without it that part is left out.
 */
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lsn, advance, distance, formatLsn } from '../src/wal/lsn.ts';
import { segmentStart } from '../src/wal/segment.ts';
import { type PostgresTools, findTools } from '../test/harness/postgres-tools.ts';
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { type Bench, type BenchContext, ProgramMissing, type Readings } from './frame.ts';
import { cpuSeconds } from './process-usage.ts';
import { SEGMENT_BYTES, type WalRange, makePrimary } from './servers.ts';
import { SlowNetwork } from './slow-network.ts';

const OLTP = 'OLTP (pgbench)';
const COPY = 'COPY';
const INDEX = 'index build';
const LIMITED = 'OLTP over a limited link';
const RATIO = 'bytes of WAL per byte on the wire';
const SPEED = 'MB/s';
const MEGABITS_PER_SECOND = 80;

export const link: Bench = {
  name: 'link',
  question: 'How many bytes of WAL does a byte on the wire between two nodes carry, and how fast?',
  aims: [
    { what: OLTP, side: 'zstd', unit: RATIO, atLeast: 2.9 },
    { what: LIMITED, side: 'zstd', unit: SPEED, of: { side: 'plain' }, atLeast: 2.5 },
  ],
  run,
};

interface Link {
  tree: TestDirectory;
  /** The node that has the WAL. */
  above: WalcadeNode;
  range: WalRange;
  network?: SlowNetwork;
  name: string;
}

async function run(context: BenchContext): Promise<string> {
  const { tree, choose } = context;
  const tools = await findTools(['pgbench']);
  if (tools === undefined) throw new ProgramMissing('pgbench');
  const network = await SlowNetwork.make({ megabitsPerSecond: MEGABITS_PER_SECOND });
  try {
    // What is committed is written, so that a range ends where the WAL does.
    const primary = await makePrimary(tree, { settings: { synchronous_commit: true } });
    await pgbench(tools, primary, [
      '-i',
      '-q',
      '-s',
      `${choose({ full: 20, short: 20, smoke: 1 })}`,
    ]);
    await primary.sql('CHECKPOINT');
    const start = await nextSegment(primary);
    const above = await makeAbove(tree, primary, { start, network });
    const megabytes = choose({ full: 96, short: 48, smoke: 2 });

    const measure = async (what: string, from: Lsn, over?: SlowNetwork): Promise<void> => {
      const end = await primary.currentLsn();
      await above.waitForWal(end);
      const range = { start: from, end, bytes: distance(from, end) };
      const common = { tree, above, range, ...(over === undefined ? {} : { network: over }) };
      const name = what.replaceAll(/\W+/g, '').toLowerCase();
      await context.alternate(what, {
        zstd: (number) => follow({ ...common, name: `${name}z${number}` }, 'zstd'),
        plain: (number) => follow({ ...common, name: `${name}p${number}` }, 'off'),
      });
    };

    await transact(tools, primary, advance(start, megabytes * 1e6));
    await measure(OLTP, start);
    if (network !== undefined) await measure(LIMITED, start, network);
    const rows = megabytes * 8000;
    await primary.sql('CREATE TABLE copied (id int, name text, amount numeric, note text)');
    const file = join(primary.dataDirectory, 'rows');
    await primary.sql(
      "COPY (SELECT i, 'name of ' || i, i * 1.7, md5(i::text) " +
        `FROM generate_series(1, ${rows}) i) TO '${file}'`,
    );
    const copyStart = await nextSegment(primary);
    await primary.sql(`COPY copied FROM '${file}'`);
    await measure(COPY, copyStart);
    const indexStart = await nextSegment(primary);
    await primary.sql('CREATE INDEX ON copied (note)');
    await primary.sql('CREATE INDEX ON copied (id)');
    await measure(INDEX, indexStart);
    return conditions(network !== undefined, megabytes);
  } finally {
    await network?.remove();
  }
}

function conditions(isLimited: boolean, megabytes: number): string {
  const limited = isLimited
    ? `the limited link is a virtual cable of ${MEGABITS_PER_SECOND} Mbit/s`
    : 'the limited link was left out: it needs root and iproute2';
  return (
    `${megabytes} MB of WAL of pgbench from just after a checkpoint, so that many are images of ` +
    'pages, and of COPY and two index builds of as many rows; all on the same cores, over ' +
    `TCP on loopback; ${limited}; all that the downstream reads is counted`
  );
}

/** Runs pgbench until WAL has come to `end`. */
async function transact(tools: PostgresTools, primary: PostgresCluster, end: Lsn): Promise<void> {
  while ((await primary.currentLsn()) < end) {
    await pgbench(tools, primary, ['-n', '-c', '8', '-j', '2', '-t', '250']);
  }
}

async function pgbench(
  tools: PostgresTools,
  { port }: PostgresCluster,
  args: readonly string[],
): Promise<void> {
  await tools.run('pgbench', [
    ...args,
    '-h',
    '127.0.0.1',
    '-p',
    `${port}`,
    '-U',
    'postgres',
    'postgres',
  ]);
}

/** Ends the segment, whose rest is zeros, and gives the start of the one that is written now. */
async function nextSegment(primary: PostgresCluster): Promise<Lsn> {
  await primary.sql('SELECT pg_switch_wal()');
  return segmentStart(await primary.currentLsn(), SEGMENT_BYTES);
}

async function makeAbove(
  tree: TestDirectory,
  primary: PostgresCluster,
  { start, network }: { start: Lsn; network: SlowNetwork | undefined },
): Promise<WalcadeNode> {
  const above = await WalcadeNode.init(tree, {
    name: 'above',
    upstream: primary.conninfo,
    args: ['--no-slot', '--start-lsn', formatLsn(start)],
    settings: { listen_addresses: '*', wal_keep_size: '20GB' },
  });
  const rules = join(above.directory, 'walcade_hba.conf');
  if (network !== undefined) await appendFile(rules, network.hbaRule);
  await above.start();
  return above;
}

/** A new node that has started before it can reach the other, so that only the link is measured. */
async function follow(
  { tree, above, range, network, name }: Link,
  compression: 'off' | 'zstd',
): Promise<Readings> {
  const host = network?.host ?? '127.0.0.1';
  const upstream = `host=${host} port=${above.port} user=postgres`;
  const below = await WalcadeNode.init(tree, {
    name,
    upstream: above.conninfo,
    args: ['--no-slot', '--start-lsn', formatLsn(range.start)],
    settings: { link_compression: compression, wal_retrieve_retry_interval: '100ms' },
    ...(network === undefined ? {} : { launcher: network.launcher }),
  });
  await below.configure({ primary_conninfo: 'host=127.0.0.1 port=1 user=postgres' });
  await below.start();
  const sendingBefore = await cpuSeconds([above.pid]);
  const receivingBefore = await cpuSeconds([below.pid]);
  await below.configure({ primary_conninfo: upstream });
  const began = performance.now();
  below.reload();
  await below.waitForWal(range.end);
  const seconds = (performance.now() - began) / 1000;
  const sending = (await cpuSeconds([above.pid])) - sendingBefore;
  const receiving = (await cpuSeconds([below.pid])) - receivingBefore;
  const wireBytes = (await below.status()).upstream.link?.wireBytes ?? Number.NaN;
  await below.end();
  const gigabytes = range.bytes / 1e9;
  return {
    [RATIO]: range.bytes / wireBytes,
    [SPEED]: range.bytes / 1e6 / seconds,
    'CPU s/GB, sending': sending / gigabytes,
    'CPU s/GB, receiving': receiving / gigabytes,
  };
}
