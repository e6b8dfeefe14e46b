/**
 * A node is promoted, and nobody below it notices but by its new timeline: nodes and plain standbys
 * stay connected, and replay what is written on the promoted node. Whatever goes wrong on the way
 * is undone, or finished.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readControlData } from '../../src/postgres/control-data.ts';
import { hasServerSlot } from '../../src/postgres/server-slots.ts';
import { readServerRole } from '../../src/postgres/server-role.ts';
import { parseLsn } from '../../src/wal/lsn.ts';
import { dataDirectory, freezeServer, serverStatus } from '../harness/attached-cluster.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { numberCluster, numberClusterWithNode } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import type { SqlServer } from '../harness/sql-server.ts';
import type { TestDirectory } from '../harness/test-directory.ts';
import { waitFor, waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const SLOT = 'walcade_node';

/** Two nodes with servers in a row, and a plain standby behind each. */
interface Cascade {
  tree: TestDirectory;
  primary: PostgresCluster;
  slave: WalcadeNode;
  slave2: WalcadeNode;
  standby: PostgresCluster;
  standby2: PostgresCluster;
}

async function cascade(t: TestContext): Promise<Cascade> {
  const { tree, primary } = await numberCluster(t);
  const slave = await nodeBelow(tree, 'slave', primary.conninfo);
  const slave2 = await nodeBelow(tree, 'slave2', slave.conninfo);
  const backup = await primary.backup(join(tree.path, 'backup'));
  const standby = await standbyOf(tree, { name: 'standby', from: backup, upstream: slave });
  const standby2 = await standbyOf(tree, { name: 'standby2', from: backup, upstream: slave2 });
  const all = { tree, primary, slave, slave2, standby, standby2 };
  await primary.sql('INSERT INTO number VALUES (1)');
  for (const member of membersOf(all)) await member.waitForCatchup(primary);
  return all;
}

async function nodeBelow(tree: TestDirectory, name: string, upstream: string) {
  const settings = { wal_retrieve_retry_interval: '200ms' };
  const node = await WalcadeNode.init(tree, { name, upstream, withPostgres: true, settings });
  await node.start();
  return node;
}

async function standbyOf(
  tree: TestDirectory,
  { name, from, upstream }: { name: string; from: string; upstream: WalcadeNode },
) {
  const { conninfo } = upstream;
  const standby = await PostgresCluster.standby(tree, { name, from, upstreamConninfo: conninfo });
  await standby.start();
  return standby;
}

function membersOf({ slave, slave2, standby, standby2 }: Cascade): SqlServer[] {
  return [slave, slave2, standby, standby2];
}

/** Who is connected to whom: all of it is to stay as it is. */
async function connections({ slave, slave2, standby, standby2 }: Cascade): Promise<unknown> {
  const below = async (node: WalcadeNode): Promise<string[]> =>
    (await node.status()).downstreams.map((d) => `${d.applicationName} ${d.pid} ${d.startedAt}`);
  return {
    slave: await below(slave),
    slave2: await below(slave2),
    receivers: await Promise.all([standby.walReceiverPid(), standby2.walReceiverPid()]),
    server: await slave2.sql('SELECT pid FROM pg_stat_wal_receiver'),
  };
}

async function promote(node: WalcadeNode, ...args: string[]): Promise<void> {
  const { code, stdout, stderr } = await node.cli(['promote', '-D', node.directory, ...args]);
  assert.equal(stderr, '');
  assert.equal(stdout, 'waiting for node to promote.... done\nnode promoted\n');
  assert.equal(code, 0);
}

async function isPromoted(node: WalcadeNode): Promise<boolean> {
  return (await node.sql('SELECT pg_is_in_recovery()')) === 'f';
}

/** A row that is written on the promoted node appears on all, on timeline `timeline`. */
async function assertLeads(all: Cascade, value: number, timeline: number): Promise<void> {
  const { slave, slave2 } = all;
  await slave.sql(`INSERT INTO number VALUES (${value})`);
  const rows = await slave.dump();
  for (const member of membersOf(all)) {
    if (member !== slave) await member.waitForCatchup(slave);
    assert.equal(await member.dump(), rows);
  }
  for (const node of [slave, slave2]) assert.equal((await node.status()).timeline, timeline);
}

/** The node receives from its own server, through its slot there. */
async function assertFollowsItself(node: WalcadeNode): Promise<void> {
  await waitFor(`${node.name} to stream from its server`, async () => {
    const { upstream, server } = await node.status();
    return upstream.isAttached && upstream.state === 'streaming' && server?.role === 'primary';
  });
  assert.equal((await node.status()).upstream.slot, SLOT);
  await node.waitForSql(`SELECT slot_name, active FROM pg_replication_slots`, `${SLOT}|t`);
}

/** The node is a standby of its old upstream, as if nobody had asked. */
async function assertStandby(node: WalcadeNode, primary: PostgresCluster): Promise<void> {
  await node.waitForCatchup(primary);
  const { upstream, server } = await node.status();
  assert.equal(server?.role, 'standby');
  assert.equal(upstream.isAttached, false);
  await waitForValue('the slot to be dropped', false, () =>
    hasServerSlot(dataDirectory(node), SLOT),
  );
}

test('a node is promoted, and everybody below follows on the connection it has', async (t) => {
  const all = await cascade(t);
  const { primary, slave, slave2, standby } = all;
  const before = await connections(all);
  await primary.stop();

  await promote(slave);
  assert.equal(await isPromoted(slave), true);
  await assertLeads(all, 2, 2);
  assert.deepEqual(await connections(all), before);
  await assertFollowsItself(slave);

  // It leads for as long as its data directory says so: over restarts and crashes.
  await slave.restart();
  await assertLeads(all, 3, 2);
  await slave.kill9();
  await slave.start();
  await assertLeads(all, 4, 2);
  await assertFollowsItself(slave);

  // What is left below has the shutdown checkpoint of a node that is stopped: nothing is lost.
  await slave.stop();
  const { checkpoint, state } = await readControlData(dataDirectory(slave));
  assert.equal(state, 'shut down');
  for (const member of [slave2, standby]) {
    assert.ok((await member.replayLsn()) > checkpoint, `${member.name} has all`);
  }

  // And the next one below can be promoted after it.
  await promote(slave2);
  await slave2.sql('INSERT INTO number VALUES (5)');
  await all.standby2.waitForCatchup(slave2);
  assert.equal(await all.standby2.sql('SELECT count(*) FROM number'), '5');
  assert.equal((await slave2.status()).timeline, 3);
});

test('a promotion behind our back is followed, with the server held behind', async (t) => {
  const all = await cascade(t);
  const { primary, slave } = all;
  const before = await connections(all);
  await slave.sql('SELECT pg_wal_replay_pause()');
  await primary.sql('INSERT INTO number SELECT generate_series(2, 1000)');
  await slave.waitForWal(await primary.currentLsn());
  await primary.stop();
  await slave.sql('SELECT pg_promote(true, 60)');
  assert.equal(await slave.sql('SELECT count(*) FROM number'), '1000');
  await assertLeads(all, 1001, 2);
  assert.deepEqual(await connections(all), before);
  await assertFollowsItself(slave);
});

for (const [how, act] of [
  ['walcade promote', promote],
  ['pg_promote()', async (node: WalcadeNode) => void (await node.sql('SELECT pg_promote()'))],
] as const) {
  test(`${how} while the primary is written to costs nobody a connection`, async (t) => {
    const all = await cascade(t);
    const { primary, slave } = all;
    const before = await connections(all);
    let isOver = false;
    const load = writeUntil(primary, () => isOver);
    await waitFor('the load to arrive', async () => (await slave.sql(COUNT)) > '100');
    await act(slave);
    await assertLeads(all, -1, 2);
    assert.deepEqual(await connections(all), before);
    isOver = true;
    await load;
  });
}

const COUNT = 'SELECT count(*) FROM number';

async function writeUntil(server: SqlServer, isOver: () => boolean): Promise<void> {
  while (!isOver()) await server.sql('INSERT INTO number SELECT generate_series(1, 100)');
}

test('the trigger file promotes the node once, and is gone then', async (t) => {
  const { primary, node } = await numberClusterWithNode(t);
  const path = join(node.directory, 'promote.now');
  await node.configure({ promote_trigger_file: 'promote.now' });
  node.reload();
  await node.waitForLog(/configuration files were read again/);
  await primary.stop();
  await writeFile(path, '');
  await node.waitForSql('SELECT pg_is_in_recovery()', 'f');
  assert.equal(existsSync(path), false);
  await node.waitForLog(/promote trigger file found: .*promote\.now/);
  await node.sql('INSERT INTO number VALUES (1)');
  await assertFollowsItself(node);
});

test('what cannot be promoted is refused, and nothing has changed', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await assertRefused(relay, /error: no node is running in /);
  await relay.start();
  await assertRefused(relay, /error: cannot promote node; it is a relay.*\nHINT:/);
  await promote(node);
  await assertRefused(
    node,
    /its server is not in standby mode\nDETAIL: {2}It is a primary already/,
  );
  await node.sql('INSERT INTO number VALUES (1)');
});

test('a node that is behind catches up, or says by how much and is not promoted', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const network = await FaultyNetwork.between(tree, primary.port);
  const node = await nodeBelow(tree, 'node', network.conninfo);
  await node.waitForCatchup(primary);

  // Too slow for the time that it is given.
  network.setFaults({ bytesPerSecond: 100_000 });
  await primary.sql('INSERT INTO number SELECT generate_series(1, 200000)');
  await waitFor('the node to know that it is behind', async () => {
    return ((await node.status()).upstream.lagBytes ?? 0) > 2_000_000;
  });
  const behind = /it is \d{6,} bytes behind its upstream\nDETAIL: .* its upstream is at .*\nHINT:/;
  await assertRefused(node, behind);
  assert.equal(await readServerRole(dataDirectory(node)), 'standby');

  // It was never in the way of what still came; with --force it does without the rest.
  network.pause();
  await promote(node, '--force');
  assert.equal(await node.sql('SELECT count(*) FROM number'), '0');
});

async function assertRefused(node: WalcadeNode, message: RegExp): Promise<void> {
  const { code, stderr } = await node.cli(['promote', '-D', node.directory, '-t', '20']);
  assert.equal(code, 1);
  assert.match(stderr, message);
}

test('a server that does not promote itself in time is what it was, as is the node', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  await node.waitForCatchup(primary);
  const thaw = await freezeServer({ tree, primary, node });
  const { code, stderr } = await node.cli(['promote', '-D', node.directory, '-t', '2']);
  assert.equal(code, 1);
  assert.match(stderr, /error: server did not promote in time\nDETAIL: .* a standby as before/);
  assert.equal(existsSync(join(dataDirectory(node), 'promote')), false);
  thaw();
  await primary.sql('INSERT INTO number VALUES (2)');
  await assertStandby(node, primary);
  await promote(node);
});

const STEPS = [
  /received promote request/,
  /has received all WAL up to/,
  /replication slot "walcade_node" is on/,
  /asked the attached PostgreSQL server/,
  /redo done at/,
  /selected new timeline ID: 2/,
  /takes writes/,
  /timeline 1 has ended: going on with timeline 2/,
] as const;

for (const [index, step] of STEPS.entries()) {
  test(`kill -9 in a promotion, at ${step.source}: it is finished or undone`, async (t) => {
    const { tree, primary, node } = await numberClusterWithNode(t);
    const from = await primary.backup(join(tree.path, 'backup'));
    const standby = await standbyOf(tree, { name: 'standby', from, upstream: node });
    await standby.waitForCatchup(primary);
    node.expectLog(/FATAL|WARNING/);
    const promotion = node.cli(['promote', '-D', node.directory]);
    await node.waitForLog(step);
    await node.kill9();
    await promotion;

    await node.start();
    const role = await readServerRole(dataDirectory(node));
    t.diagnostic(`after step ${index}: ${role}, ${(await serverStatus(node)).state}`);
    if (role === 'standby') {
      await primary.sql('INSERT INTO number VALUES (1)');
      await assertStandby(node, primary);
      await promote(node);
    }
    await primary.stop();
    await assertFollowsItself(node);
    await node.sql('INSERT INTO number VALUES (2)');
    await standby.waitForCatchup(node);
    assert.equal(await standby.dump(), await node.dump());
    assert.ok(parseLsn((await node.status()).positions.served) > 0n);
  });
}
