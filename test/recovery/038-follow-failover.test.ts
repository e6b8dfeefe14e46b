/**
 * `walcade follow` and conninfos of several hosts, when a standby or a node is promoted: who is
 * found, and which promoted servers are none that a node can follow.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import {
  follow,
  nodeOf,
  refused,
  relayOf,
  several,
  standbyOf,
  switchPoint,
} from '../harness/follow-steps.ts';
import { numberCluster } from '../harness/number-cluster.ts';
import { waitFor } from '../harness/wait.ts';

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
    hint: /^Stop the node and run "walcade rejoin" to make it a standby of another server\.$/,
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
    hint: /^Stop the node and run "walcade rejoin" to take the server back to there\.$/,
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
