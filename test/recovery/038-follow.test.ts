/**
 * `walcade follow`: a node goes over to another upstream while rows stream, and nobody below it
 * notices; an upstream that it cannot follow is refused before anything has changed.
 */
import assert from 'node:assert/strict';
import { chmod, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Lsn, formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { numberCluster, numberClusterWithNode } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import type { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { type CommandOutcome, WalcadeNode } from '../harness/walcade-node.ts';

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

test('a conninfo of several hosts finds the promoted one', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const sibling = await standbyOf(tree, primary, 'sibling');
  const both = several(primary, sibling);
  const relay = await relayOf(tree, `${both} target_session_attrs=read-write`, 'relay');
  const below = await standbyOf(tree, primary, 'below', relay.conninfo);
  const receiver = await waitFor('the WAL receiver of below', () => below.walReceiverPid());
  assert.equal((await relay.status()).upstream.address, `127.0.0.1:${primary.port}`);
  for (const [attributes, upstream] of [
    ['standby', sibling],
    ['primary', primary],
    ['prefer-standby', sibling],
    ['read-only', sibling],
    ['read-write', primary],
  ] as const) {
    const { code, stderr } = await follow(relay, `${both} target_session_attrs=${attributes}`);
    assert.equal(code, 0, stderr);
    const { address } = (await relay.status()).upstream;
    assert.equal(address, `127.0.0.1:${upstream.port}`, attributes);
  }

  await sibling.waitForCatchup(primary);
  await relay.waitForWal(await primary.currentLsn());
  await primary.kill9();
  await sibling.promote();
  await sibling.sql('INSERT INTO number VALUES (2)');
  await below.waitForSql('SELECT value FROM number', '2');
  assert.equal((await relay.status()).upstream.address, `127.0.0.1:${sibling.port}`);
  assert.equal(await below.walReceiverPid(), receiver);
});

test('among nodes too a conninfo of several hosts finds the promoted one', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const [a, b] = [
    await nodeOf(tree, primary.conninfo, 'a'),
    await nodeOf(tree, primary.conninfo, 'b'),
  ];
  const servers = several(primary, a, b);
  const relay = await relayOf(tree, `${servers} target_session_attrs=read-write`, 'relay');
  const attributes = 'target_session_attrs=read-write';
  const standby = await standbyOf(tree, primary, 'standby', `${servers} ${attributes}`);
  for (const member of [a, b, standby]) await member.waitForCatchup(primary);
  await primary.kill9();
  for (const node of [a, b]) node.expectLog(/FATAL|ERROR/);
  const { code, stderr } = await b.cli(['promote', '-D', b.directory, '--force']);
  assert.equal(code, 0, stderr);
  await b.sql('INSERT INTO number VALUES (3)');
  // A standby of PostgreSQL, whose libpq asks the nodes, and the relay.
  await standby.waitForSql('SELECT value FROM number', '3');
  await relay.waitForWal(await b.currentLsn());
  assert.equal((await relay.status()).upstream.address, `127.0.0.1:${b.port}`);
  for (const [wanted, upstream] of [
    ['standby', a],
    ['primary', b],
    ['prefer-standby', a],
  ] as const) {
    await follow(a, b.conninfo);
    const conninfo = `${several(a, b)} target_session_attrs=${wanted}`;
    const outcome = await follow(relay, conninfo);
    assert.equal(outcome.code, 0, outcome.stderr);
    const { address } = (await relay.status()).upstream;
    assert.equal(address, `127.0.0.1:${upstream.port}`, wanted);
  }

  // A node whose server leads follows nobody.
  await refused(b, a.conninfo, {
    message: /^cannot follow another upstream: the attached PostgreSQL server is a primary$/,
    detail: /^It writes WAL of its own, which this node receives\.$/,
    hint: /^Run "walcade rejoin" to make it a standby of another server\.$/,
  });
});

test('a promoted sibling is followed, and so is a server that forked off before', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const [first, second] = [
    await standbyOf(tree, primary, 'first'),
    await standbyOf(tree, primary, 'second'),
  ];
  const relay = await relayOf(tree, primary.conninfo, 'relay');
  const node = await nodeOf(tree, primary.conninfo, 'node');
  await relay.waitForWal(await primary.currentLsn());
  await node.waitForCatchup(primary);
  await first.waitForCatchup(primary);
  await second.waitForCatchup(primary);
  const fork = await primary.currentLsn();
  await first.promote();

  // The primary goes on: the relay is past where the sibling was promoted.
  await primary.sql('INSERT INTO number VALUES (1)');
  const end = await primary.currentLsn();
  await relay.waitForWal(end);
  await node.waitForCatchup(primary);
  const position = await switchPoint(first);
  assert.ok(position >= fork);
  await refused(node, first.conninfo, {
    message: /^upstream \S+ goes on from a position that the attached PostgreSQL server is past$/,
    detail: new RegExp(
      `^The two histories part at ${formatLsn(position)} on timeline 1; the server has been ` +
        'given WAL up to \\S+\\.$',
    ),
    hint: /^Run "walcade rejoin" to take the server back to where they part\.$/,
  });
  relay.expectLog(/WARNING: .*the upstream's history forked off timeline 1/);
  const { code, stdout, stderr } = await follow(relay, first.conninfo);
  assert.equal(code, 0, stderr);
  assert.match(stdout, /^node "relay" follows \S+, streaming, timeline 2$/m);
  assert.match(stderr, new RegExp(`notice: upstream \\S+ goes on from ${formatLsn(position)}, `));
  await first.sql('INSERT INTO number VALUES (2)');
  await relay.waitForWal(await first.currentLsn());

  // Another timeline 2, at another position: the relay is of the first one.
  await second.waitForCatchup(primary);
  await second.promote();
  await refused(relay, second.conninfo, {
    message: new RegExp(`^timeline 2 of upstream 127\\.0\\.0\\.1:${second.port} is another one`),
    detail: new RegExp(`^The two histories part at ${formatLsn(position)} on timeline 1\\.$`),
    hint: /^Follow a server whose history this node shares, or make the node anew\.$/,
  });
  // Back to what never left timeline 1.
  await refused(relay, primary.conninfo, {
    message: new RegExp(`^upstream 127\\.0\\.0\\.1:${primary.port} is behind this node$`),
    detail: /^It is at \S+ on timeline 1.*; this node is at \S+ on timeline 2\.$/,
    hint: /^Try again when it has caught up, or follow a server that has all of this WAL\.$/,
  });
});

test('two servers that took one number at one position are told apart by their WAL', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const [first, second] = [
    await standbyOf(tree, primary, 'first'),
    await standbyOf(tree, primary, 'second'),
  ];
  const relay = await relayOf(tree, primary.conninfo, 'relay');
  await primary.stop();
  await first.promote();
  await second.promote();
  const position = await switchPoint(first);
  assert.equal(await switchPoint(second), position);
  for (const sibling of [first, second]) {
    await sibling.sql('INSERT INTO number SELECT generate_series(1, 10000)');
  }
  assert.equal((await follow(relay, first.conninfo)).code, 0);
  await relay.waitForWal(await first.currentLsn());
  await second.sql('INSERT INTO number SELECT generate_series(1, 10000)');
  const told = await refused(relay, second.conninfo, {
    message: new RegExp(`^timeline 2 of upstream 127\\.0\\.0\\.1:${second.port} is another one`),
    detail: /^The two have the same history, and WAL that parts at \S+\.$/,
    hint: /^Follow a server whose history this node shares, or make the node anew\.$/,
  });
  // The first record of a timeline has the time of its promotion in it.
  const parts = parseLsn(/parts at (\S+)\.$/m.exec(told)?.[1] ?? '');
  assert.ok(parts >= position && parts < position + 200n, formatLsn(parts));
});

/** A hot standby of `primary`, made and started; it receives from `upstream` if that is given. */
async function standbyOf(
  tree: TestDirectory,
  primary: PostgresCluster,
  name: string,
  upstream = primary.conninfo,
): Promise<PostgresCluster> {
  const from = await primary.backup(join(tree.path, `backup-${name}`));
  const standby = await PostgresCluster.standby(tree, { name, from, upstreamConninfo: upstream });
  await standby.start();
  await waitFor(`the WAL receiver of ${name}`, () => standby.walReceiverPid());
  return standby;
}

async function relayOf(tree: TestDirectory, upstream: string, name: string): Promise<WalcadeNode> {
  const settings = { wal_retrieve_retry_interval: '200ms' };
  const relay = await WalcadeNode.init(tree, { name, upstream, settings });
  await relay.start();
  await waitFor(`${name} to stream`, async () => {
    const { state } = (await relay.status()).upstream;
    return state === 'streaming';
  });
  return relay;
}

async function nodeOf(tree: TestDirectory, upstream: string, name: string): Promise<WalcadeNode> {
  const settings = { wal_retrieve_retry_interval: '200ms' };
  const node = await WalcadeNode.init(tree, { name, upstream, withPostgres: true, settings });
  await node.start();
  return node;
}

function follow(node: WalcadeNode, conninfo: string): Promise<CommandOutcome> {
  return node.cli(['follow', '-D', node.directory, conninfo]);
}

function several(...servers: readonly { port: number }[]): string {
  const hosts = servers.map(() => '127.0.0.1').join(',');
  return `host=${hosts} port=${servers.map(({ port }) => port).join(',')} user=postgres`;
}

/** `follow` is refused in these words; file and stream are what they were. Gives what was said. */
async function refused(
  node: WalcadeNode,
  conninfo: string,
  expected: { message: RegExp; detail: RegExp | undefined; hint: RegExp | undefined },
): Promise<string> {
  const conf = join(node.directory, 'walcade.conf');
  const before = { text: await readFile(conf, 'utf8'), mark: await node.log.mark() };
  const { code, stdout, stderr } = await follow(node, conninfo);
  assert.equal(code, 1, stdout + stderr);
  const lines = stderr.trimEnd().split('\n');
  const field = (start: string): string | undefined =>
    lines.find((line) => line.startsWith(start))?.slice(start.length);
  assert.match(field('walcade: error: ') ?? '', expected.message);
  for (const [start, pattern] of [
    ['DETAIL:  ', expected.detail],
    ['HINT:  ', expected.hint],
  ] as const) {
    if (pattern === undefined) assert.equal(field(start), undefined, stderr);
    else assert.match(field(start) ?? '', pattern);
  }
  assert.equal(await readFile(conf, 'utf8'), before.text);
  assert.equal((await node.status()).upstream.state, 'streaming');
  assert.doesNotMatch(await node.log.since(before.mark), /restarts|started streaming|read again/);
  return stderr;
}

/** The sessions of all who receive from `node`, by name. */
async function connectionsBelow(node: WalcadeNode): Promise<[name: string, pid: number][]> {
  const { downstreams } = await node.status();
  return downstreams
    .map(({ applicationName, pid }): [string, number] => [applicationName, pid])
    .toSorted(([, one], [, other]) => one - other);
}

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

/** Where timeline 2 of a promoted server began. */
async function switchPoint(server: PostgresCluster): Promise<Lsn> {
  const path = join(server.dataDirectory, 'pg_wal', '00000002.history');
  const [, position = ''] = (await readFile(path, 'utf8')).trim().split('\t');
  return parseLsn(position);
}
