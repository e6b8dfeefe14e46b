/**
 * `walcade follow`: a node goes over to another upstream while rows stream, and nobody below it
 * notices; an upstream that it cannot follow is refused before anything has changed.
 */
import assert from 'node:assert/strict';
import { chmod, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { connectionsBelow, follow, refused, relayOf, standbyOf } from '../harness/follow-steps.ts';
import { numberCluster, numberClusterWithNode } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const STARTS = /received replication command: START_REPLICATION/;
const CLOSES = 'Following it would close a loop that no primary feeds.';

test('a relay goes over to a standby, to a node and back while rows stream', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const standby = await standbyOf(tree, primary, 'standby');
  const upper = await relayOf(tree, primary.conninfo, 'upper');
  const relay = await relayOf(tree, primary.conninfo, 'relay');
  const below = await standbyOf(tree, primary, 'below', relay.conninfo);
  const lower = await relayOf(tree, relay.conninfo, 'lower');
  await below.waitForCatchup(primary);
  const before = await connectionsBelow(relay);
  assert.equal(before.length, 2);
  const conf = join(relay.directory, 'walcade.conf');
  await chmod(conf, 0o640);

  const rows = insertRows(primary);
  const positions = watchServed(relay);
  for (const [upstream, told] of [
    [standby, `127.0.0.1:${standby.port}`],
    [upper, `127.0.0.1:${upper.port}`],
    [primary, `127.0.0.1:${primary.port}`],
  ] as const) {
    const { code, stdout, stderr } = await follow(relay, upstream.conninfo);
    assert.equal(code, 0, stderr);
    assert.equal(stdout, `node "relay" follows ${told}, streaming, timeline 1\n`);
    assert.match(stderr, /notice: replication slot "relay" is left on the former upstream/);
    const { conninfo, address, state } = (await relay.status()).upstream;
    assert.deepEqual(
      { conninfo, address, state },
      {
        conninfo: upstream.conninfo,
        address: told,
        state: 'streaming',
      },
    );
    assert.ok((await readFile(conf, 'utf8')).includes(`= '${upstream.conninfo}'`));
    await lower.waitForWal(await primary.currentLsn());
    await below.waitForCatchup(primary);
  }
  await rows.stop();
  await positions.stop();

  assert.equal((await stat(conf)).mode & 0o777, 0o640);
  assert.deepEqual(await connectionsBelow(relay), before);
  await below.waitForCatchup(primary);
  assert.equal(await below.dump(), await primary.dump());
});

test('a node with a server goes over to a standby and back while rows stream', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const standby = await standbyOf(tree, primary, 'standby');
  const below = await standbyOf(tree, primary, 'below', node.conninfo);
  await below.waitForCatchup(primary);
  const before = await connectionsBelow(node);
  const receiver = await node.sql('SELECT pid FROM pg_stat_wal_receiver');

  const rows = insertRows(primary);
  const positions = watchServed(node);
  for (const upstream of [standby, primary]) {
    const { code, stderr } = await follow(node, upstream.conninfo);
    assert.equal(code, 0, stderr);
    await below.waitForCatchup(primary);
    await node.waitForCatchup(primary);
  }
  await rows.stop();
  await positions.stop();

  assert.deepEqual(await connectionsBelow(node), before);
  assert.equal(await node.sql('SELECT pid FROM pg_stat_wal_receiver'), receiver);
  await node.waitForCatchup(primary);
  assert.equal(await node.dump(), await primary.dump());
});

test('an upstream that cannot be followed is refused, and nothing has changed', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const behind = await standbyOf(tree, primary, 'behind');
  await behind.stop();
  const relay = await relayOf(tree, primary.conninfo, 'relay');
  const other = await PostgresCluster.init(tree, { name: 'other' });
  await other.start();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 200000)');
  await relay.waitForWal(await primary.currentLsn());
  // It has no upstream any more, and less than the relay.
  await behind.setUpstream('host=/nowhere');
  await behind.start();
  const free = await tree.reservePort();

  for (const [conninfo, message, detail, hint] of [
    [
      other.conninfo,
      /^database system identifier differs between the upstream and this node$/,
      /^The upstream's identifier is \d+, this node's identifier is \d+\.$/,
      /^Point primary_conninfo at a server of the same cluster, or make the node anew\.$/,
    ],
    [
      relay.conninfo,
      new RegExp(`^upstream 127\\.0\\.0\\.1:${relay.port} is this node itself$`),
      /^There is nothing that it could receive from itself\.$/,
      /^Follow the primary, or a node that is not below this one\.$/,
    ],
    [
      behind.conninfo,
      new RegExp(`^upstream 127\\.0\\.0\\.1:${behind.port} is behind this node$`),
      /^It is at \S+ on timeline 1, \d+ (kB|MB) behind; this node is at \S+ on timeline 1\.$/,
      /^Try again when it has caught up, or follow a server that has all of this WAL\.$/,
    ],
    [
      `host=127.0.0.1 port=${free} user=postgres`,
      new RegExp(`^connection to server at "127\\.0\\.0\\.1", port ${free} failed: `),
      undefined,
      /^Is the server running on that host and accepting TCP\/IP connections\?$/,
    ],
    ['hots=db1', /^invalid connection option "hots"$/, undefined, undefined],
    ['', /^connection info string is empty$/, undefined, undefined],
  ] as const) {
    await refused(relay, conninfo, { message, detail, hint });
  }
});

// It was looked whether the server leads before the upstream was, which may take a minute.
test('a node that is promoted while it looks at an upstream does not follow it', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const network = await FaultyNetwork.between(tree, primary.port);
  const conf = join(node.directory, 'walcade.conf');
  const before = await readFile(conf, 'utf8');
  network.setFaults({ delayMs: 100 });
  const since = await primary.log.mark();
  const following = follow(node, network.conninfo);
  // The last that it asks: their WAL is compared.
  await waitFor('it to compare', async () => STARTS.test(await primary.log.since(since)));
  network.pause();
  await node.sql('SELECT pg_promote(true, 60)');
  await waitFor('the node to lead', async () => (await node.status()).upstream.isAttached);
  network.resume();
  const { code, stderr } = await following;
  assert.equal(code, 1);
  assert.match(
    stderr,
    /error: cannot follow another upstream: the attached PostgreSQL server is a/,
  );
  assert.equal(await readFile(conf, 'utf8'), before);
  assert.equal((await node.status()).upstream.isAttached, true);
});

test('a stopped node is told where it can be changed', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  const { code, stderr } = await follow(relay, primary.conninfo);
  assert.equal(code, 1);
  assert.match(stderr, /error: no node is running in ".*"/);
  assert.match(
    stderr,
    /HINT: {2}Start it first, or set "primary_conninfo" in its walcade\.conf\.$/m,
  );
});

test('loops over two and three nodes are refused', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const a = await relayOf(tree, primary.conninfo, 'a');
  const b = await relayOf(tree, a.conninfo, 'b');
  const c = await relayOf(tree, b.conninfo, 'c');
  const hint = /^Follow the primary, or a node that is not below this one\.$/;
  const message = (node: WalcadeNode) =>
    new RegExp(`^upstream 127\\.0\\.0\\.1:${node.port} receives its WAL from this node$`);
  await refused(a, b.conninfo, { message: message(b), detail: new RegExp(`^${CLOSES}$`), hint });
  await refused(a, c.conninfo, {
    message: message(c),
    detail: new RegExp(`^It does so through one other node\\. ${CLOSES}$`),
    hint,
  });
});

// Its path had been asked for once, when it connected.
test('a loop is seen that is closed above a node while it streams', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const a = await relayOf(tree, primary.conninfo, 'a');
  const b = await relayOf(tree, primary.conninfo, 'b');
  const c = await relayOf(tree, b.conninfo, 'c');
  assert.equal((await follow(b, a.conninfo)).code, 0);
  await refused(a, c.conninfo, {
    message: new RegExp(`^upstream 127\\.0\\.0\\.1:${c.port} receives its WAL from this node$`),
    detail: new RegExp(`^It does so through one other node\\. ${CLOSES}$`),
    hint: /^Follow the primary, or a node that is not below this one\.$/,
  });
});

test('nodes that are pointed at each other at one moment see it, and are put right', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const [a, b, c] = [
    await relayOf(tree, primary.conninfo, 'a'),
    await relayOf(tree, primary.conninfo, 'b'),
    await relayOf(tree, primary.conninfo, 'c'),
  ];
  const below = await standbyOf(tree, primary, 'below', c.conninfo);
  const receiver = await below.walReceiverPid();
  const LOOP = /receives its WAL from this node/;
  for (const [node, upstream] of [
    [a, b],
    [b, c],
    [c, a],
  ] as const) {
    node.expectLog(LOOP);
    await node.configure({ primary_conninfo: upstream.conninfo });
  }
  for (const node of [a, b, c]) node.reload();
  for (const node of [a, b, c]) {
    await waitFor(`${node.name} to see the loop`, async () =>
      LOOP.test((await node.status()).upstream.reason ?? ''),
    );
  }

  // One of them goes back to the primary, and the others find that all is well.
  const { code, stderr } = await follow(b, primary.conninfo);
  assert.equal(code, 0, stderr);
  await primary.sql('INSERT INTO number VALUES (7)');
  await below.waitForSql('SELECT value FROM number', '7');
  assert.equal(await below.walReceiverPid(), receiver);
  for (const node of [a, b, c]) assert.equal((await node.status()).upstream.state, 'streaming');
});

interface Stoppable {
  stop(): Promise<void>;
}

/** Does `action` again and again until it is stopped; `stop` rejects with what it threw. */
function repeat(action: () => Promise<void>): Stoppable {
  const stop = new AbortController();
  const run = async (): Promise<void> => {
    while (!stop.signal.aborted) await action();
  };
  const ended = run().then(
    () => ({}),
    (error: unknown) => ({ error }),
  );
  return {
    stop: async () => {
      stop.abort();
      const outcome = await ended;
      if ('error' in outcome) throw outcome.error;
    },
  };
}

function insertRows(primary: PostgresCluster): Stoppable {
  return repeat(async () => {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 100)');
  });
}

/** What a node serves never goes back. */
function watchServed(node: WalcadeNode): Stoppable {
  let last = parseLsn('0/0');
  return repeat(async () => {
    const served = parseLsn((await node.status()).positions.served);
    assert.ok(served >= last, `${formatLsn(served)} after ${formatLsn(last)}`);
    last = served;
  });
}
