/**
 * Links between nodes that are compressed or held to a rate: what arrives is the same, with fewer
 * bytes on the wire or not so fast, and a server that knows nothing of it is none the worse.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Lsn, distance, formatLsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { SEGMENT_BYTES_DEFAULT, segmentStart } from '../../src/wal/segment.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { type NumberCluster, numberCluster } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import type { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { digestStored } from '../harness/wal-files.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const segmentBytes = SEGMENT_BYTES_DEFAULT;
const ZSTD = { link_compression: 'zstd', wal_retrieve_retry_interval: '200ms' };
const MB = 1024 * 1024;

test('a chain of compressed nodes carries what the primary has in half of the bytes', async (t) => {
  const { tree, primary } = await accounts(t);
  // The first node asks a PostgreSQL server, the second one a node; below it is a plain standby.
  const backup = await primary.backup(join(tree.path, 'backup'));
  const node1 = await node(tree, 'node1', primary.conninfo, ZSTD);
  const network = await FaultyNetwork.between(tree, node1.port);
  const node2 = await node(tree, 'node2', network.conninfo, ZSTD);
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: node2.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);

  // Small transactions, as pgbench makes them, and all pages of the table anew.
  const before = { lsn: await primary.currentLsn(), wire: network.upstreamBytes };
  await transact(primary, 300);
  await primary.sql('UPDATE account SET balance = balance + 1');
  const end = await primary.currentLsn();
  await node2.waitForWal(end);
  const walBytes = distance(before.lsn, end);
  const wireBytes = network.upstreamBytes - before.wire;
  assert.ok(wireBytes * 2 < walBytes, `${wireBytes} bytes for ${walBytes} bytes of WAL`);
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  await sameWal({ primary, nodes: [node1, node2], start: before.lsn, end });

  // Who sends plainly says so, and who is sent so.
  const above = await node1.status();
  const below = await node2.status();
  assert.equal(above.upstream.link?.compression, 'off');
  assert.equal(above.downstreams[0]?.link.compression, 'zstd');
  assert.equal(below.upstream.link?.compression, 'zstd');
  assert.equal(below.downstreams[0]?.link.compression, 'off');
  assert.ok((above.downstreams[0]?.link.savedBytes ?? 0) > walBytes / 2);
  assert.ok((below.upstream.link?.savedBytes ?? 0) > walBytes / 2);
  const shown = (await node2.cli(['status', '-D', node2.directory])).stdout;
  assert.match(shown, /^link +zstd \d+\.\dx, \d.*B saved$/m);
});

test('compression is switched on and off by a reload', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const node1 = await node(tree, 'node1', primary.conninfo);
  const node2 = await node(tree, 'node2', node1.conninfo);
  for (const compression of ['zstd', 'off'] as const) {
    await node2.configure({ link_compression: compression });
    node2.reload();
    await waitFor(`a link that is ${compression}`, async () => {
      const { state, link } = (await node2.status()).upstream;
      return state === 'streaming' && link?.compression === compression;
    });
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    await node2.waitForWal(await primary.currentLsn());
  }
});

test('frames that are broken on the way are refused and fetched again', async (t) => {
  const { tree, primary } = await accounts(t);
  const node1 = await node(tree, 'node1', primary.conninfo);
  const network = await FaultyNetwork.between(tree, node1.port);
  t.diagnostic(`seed ${network.seed}`);
  const node2 = await node(tree, 'node2', network.conninfo, ZSTD);
  // A frame may also come to other WAL of the same length: then it does not prove, or is not what
  // is here already.
  node2.expectLog(/received corrupt WAL from upstream/);
  node2.expectLog(/WAL of the upstream differs from this node's/);
  const start = await primary.currentLsn();
  await node2.waitForWal(start);

  network.corruptFrames(12);
  while (network.framesToCorrupt > 0) {
    await primary.sql('UPDATE account SET balance = balance + 1 WHERE id % 50 = 0');
    await node2.waitForWal(await primary.currentLsn());
  }
  await node2.waitForLog(/invalid compressed WAL data|received corrupt WAL/);
  await sameWal({ primary, nodes: [node1, node2], start, end: await primary.currentLsn() });
});

test('a promotion and its new timeline go over a compressed link as it is', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const slave = await WalcadeNode.init(tree, {
    name: 'slave',
    upstream: primary.conninfo,
    withPostgres: true,
  });
  await slave.start();
  const slave2 = await node(tree, 'slave2', slave.conninfo, ZSTD);
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: slave2.conninfo,
  });
  await standby.start();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 5000)');
  await slave.waitForCatchup(primary);
  const [before] = (await slave.status()).downstreams;

  const { code, stderr } = await slave.cli(['promote', '-D', slave.directory]);
  assert.equal(code, 0, stderr);
  await slave.sql('INSERT INTO number SELECT generate_series(5001, 10000)');
  await standby.waitForCatchup(slave);
  assert.equal(await standby.sql('SELECT count(*) FROM number'), '10000');
  assert.equal((await slave2.status()).timeline, 2);
  const [after] = (await slave.status()).downstreams;
  assert.equal(after?.pid, before?.pid, 'the connection is the same');
  assert.equal(after?.link.compression, 'zstd');
});

test('older WAL is passed on from the upstream over a compressed link', async (t) => {
  const { tree, primary } = await accounts(t);
  const start = segmentStart(await primary.currentLsn(), segmentBytes);
  const node1 = await node(tree, 'node1', primary.conninfo);
  await transact(primary, 200);
  await primary.sql('SELECT pg_switch_wal()');
  await transact(primary, 200);
  await primary.sql('SELECT pg_switch_wal()');
  const end = await primary.currentLsn();
  await node1.waitForWal(end);

  // The node below begins later than the one below that, which asks it for what it never had.
  const network = await FaultyNetwork.between(tree, node1.port);
  const late = await node(tree, 'late', network.conninfo, ZSTD, [
    '--start-lsn',
    formatLsn(segmentStart(end, segmentBytes)),
  ]);
  await late.waitForWal(end);
  const before = network.upstreamBytes;
  const early = await node(tree, 'early', late.conninfo, ZSTD, ['--start-lsn', formatLsn(start)]);
  await early.waitForWal(end);
  const wireBytes = network.upstreamBytes - before;
  assert.ok(wireBytes * 2 < distance(start, end), `${wireBytes} bytes on the wire`);
  await sameWal({ primary, nodes: [early], start, end });
});

test('max_rate holds while a node catches up, and another is in force at once', async (t) => {
  const { tree, primary, start, end } = await farAhead(t);
  const network = await FaultyNetwork.between(tree, primary.port);
  const rate = 2 * MB;
  const slow = await node(tree, 'slow', network.conninfo, { max_rate: '2MB' }, [
    '--start-lsn',
    formatLsn(start),
  ]);
  // From when it has begun to rest: what buffers on the way take comes before.
  const received = async (): Promise<Lsn> => parseLsn((await slow.status()).positions.received);
  const from = await waitFor('some WAL', async () => {
    const lsn = await received();
    return lsn > start ? { lsn, ms: performance.now() } : undefined;
  });
  const to = await waitFor('8 MB more', async () => {
    const lsn = await received();
    const isEnough = distance(from.lsn, lsn) >= 4 * rate;
    return isEnough ? { lsn, ms: performance.now() } : undefined;
  });
  const perSecond = (distance(from.lsn, to.lsn) * 1000) / (to.ms - from.ms);
  assert.ok(perSecond < 1.2 * rate && perSecond > 0.6 * rate, `${perSecond} bytes per second`);
  assert.ok(to.lsn < end);

  // Without the limit the rest comes at once.
  await slow.configure({ max_rate: 0 });
  slow.reload();
  await slow.waitForWal(end);
  assert.doesNotMatch(await slow.log.text(), /timeout|connection lost/);
});

test('an upstream that shuts down does not wait for a link that is held back', async (t) => {
  const { primary, tree, start, end } = await farAhead(t);
  const slow = await node(tree, 'slow', primary.conninfo, { max_rate: '64kB' }, [
    '--start-lsn',
    formatLsn(start),
  ]);
  await waitFor('the stream', async () => (await slow.status()).upstream.state === 'streaming');
  // At this rate all of it would take minutes.
  await primary.stop('fast');
  await slow.waitForLog(/held back by "max_rate"/);
  await primary.start();
  await slow.configure({ max_rate: 0 });
  slow.reload();
  await slow.waitForWal(end);
});

/** A primary with a table of accounts, whose pages are full of what repeats. */
async function accounts(t: TestContext): Promise<NumberCluster> {
  const cluster = await numberCluster(t);
  await cluster.primary.sql(
    'CREATE TABLE account (id int PRIMARY KEY, balance int, filler char(84));' +
      "INSERT INTO account SELECT i, 0, '' FROM generate_series(1, 20000) i;" +
      'CREATE TABLE history (id int, delta int, at timestamptz, filler char(22));' +
      'CREATE PROCEDURE transact(count int) LANGUAGE plpgsql AS $$ BEGIN ' +
      'FOR i IN 1..count LOOP ' +
      'UPDATE account SET balance = balance + i WHERE id = 1 + (random() * 19999)::int; ' +
      "INSERT INTO history VALUES (i, i, clock_timestamp(), ''); COMMIT; END LOOP; END $$",
  );
  return cluster;
}

async function transact(primary: PostgresCluster, count: number): Promise<void> {
  await primary.sql(`CALL transact(${count})`);
}

/** A primary that has kept 48 MB of WAL, and where that is. */
async function farAhead(t: TestContext) {
  const { tree, primary } = await numberCluster(t);
  await primary.configure({ wal_keep_size: '1GB' });
  await primary.sql('SELECT pg_switch_wal()');
  const start = segmentStart(await primary.currentLsn(), segmentBytes);
  let end = start;
  while (distance(start, end) < 48 * MB) {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 100000)');
    end = await primary.currentLsn();
  }
  return { tree, primary, start, end };
}

async function node(
  tree: TestDirectory,
  name: string,
  upstream: string,
  settings: Record<string, string | number> = {},
  args: string[] = [],
): Promise<WalcadeNode> {
  const made = await WalcadeNode.init(tree, { name, upstream, settings, args });
  await made.start();
  return made;
}

/** Each node has, from `start`'s segment on, what the primary has. */
async function sameWal({
  primary,
  nodes,
  start,
  end,
}: {
  primary: PostgresCluster;
  nodes: readonly WalcadeNode[];
  start: Lsn;
  end: Lsn;
}): Promise<void> {
  const from = segmentStart(start, segmentBytes);
  const range = { timeline: timelineId(1), start: from, end, segmentBytes };
  const original = await digestStored(primary.dataDirectory, range);
  for (const each of nodes) assert.equal(await digestStored(each.directory, range), original);
}
