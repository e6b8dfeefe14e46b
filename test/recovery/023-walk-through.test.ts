/**
 * The walk-through that cascading replication was first shown with: a master, a slave, and two
 * slaves of the slave, of which one is a copy of it; and what holds for a copied directory.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { copyFile, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { setParameter } from '../../src/config/conf-file.ts';
import { parseLsn } from '../../src/wal/lsn.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor, waitForValue } from '../harness/wait.ts';
import { WalClient } from '../harness/wal-client.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const run = promisify(execFile);

test('a row reaches the slave and, through it alone, the two slaves of the slave', async (t) => {
  const { tree, master, slave } = await masterAndSlave(t);

  // create table i on the master, \d i on the slave.
  await master.sql('CREATE TABLE i (x int4)');
  await slave.waitForSql(`SELECT to_regclass('i') IS NOT NULL`, 't');
  assert.equal(await slave.sql('SELECT count(*) FROM i'), '0');

  // The slave is stopped, copied, started; the copy gets a port, a name and another upstream.
  await slave.stop();
  const slave2 = await copyOf(tree, slave, 'slave2');
  await slave.start();
  await edit(slave2, { primary_conninfo: slave.conninfo });
  const slave3 = await WalcadeNode.init(tree, {
    name: 'slave3',
    upstream: slave.conninfo,
    withPostgres: true,
  });
  await slave2.start();
  await slave3.start();

  // The base backup of slave3 is out of the slave; the master gave one only, the slave's own.
  const backups = async ({ log }: WalcadeNode | PostgresCluster) =>
    (await log.text()).match(/received replication command: BASE_BACKUP/g)?.length ?? 0;
  assert.equal(await backups(master), 1);
  assert.equal(await backups(slave), 1);

  // One WAL sender on the master, a receiver and two senders on the slave, a receiver below.
  await master.waitForSql('SELECT application_name, state FROM pg_stat_replication', SENDER);
  await waitForValue('two senders', 'slave2 streaming, slave3 streaming', () => senders(slave));
  for (const node of [slave, slave2, slave3]) {
    await node.waitForSql('SELECT status FROM pg_stat_wal_receiver', 'streaming');
    assert.equal((await node.status()).upstream.state, 'streaming');
  }
  for (const node of [slave2, slave3]) assert.equal(await senders(node), '');

  // insert into i(x) values (123); select * from i, everywhere.
  await master.sql('INSERT INTO i(x) VALUES (123)');
  for (const node of [slave, slave2, slave3]) await node.waitForSql('SELECT * FROM i', '123');

  // All are at one position in the end, and the master knows that of the slave's server.
  await waitFor('one position everywhere', async () => {
    const nodes = [slave, slave2, slave3];
    const served = nodes.map(async (node) => (await node.status()).positions.served);
    const replayed = nodes.map((node) => node.sql('SELECT pg_last_wal_replay_lsn()'));
    const known = master.sql('SELECT replay_lsn FROM pg_stat_replication');
    const current = master.sql('SELECT pg_current_wal_lsn()');
    const positions = await Promise.all([...served, ...replayed, known, current]);
    return new Set(positions.map(parseLsn)).size === 1;
  });
  assert.equal(await slave2.dump(), await master.dump());
  assert.equal(await slave3.dump(), await master.dump());

  // A slave is in recovery, and takes no writes.
  for (const node of [slave, slave2, slave3]) {
    assert.equal(await node.sql('SELECT pg_is_in_recovery()'), 't');
    node.expectLog(/cannot execute INSERT in a read-only transaction/);
    await assert.rejects(node.sql('INSERT INTO i VALUES (1)'), { code: '25006' });
  }
});

test('a copied node becomes one of its own, and leaves the original what it has', async (t) => {
  const { tree, master, slave } = await masterAndSlave(t);
  const { nodeId } = await slave.status();
  const client = await WalClient.connect(tree, slave.conninfo);
  await client.query('CREATE_REPLICATION_SLOT downstream PHYSICAL RESERVE_WAL');
  await slave.stop();
  const copy = await copyOf(tree, slave, 'slave2');
  await slave.start();

  // Nothing in the copy but its data leads to the original, and a pid of another is no obstacle.
  assert.deepEqual(await filesNaming(copy.directory, slave.directory), []);
  await copyFile(join(slave.directory, 'walcade.pid'), join(copy.directory, 'walcade.pid'));
  assert.equal(
    Number.parseInt(await readFile(join(copy.directory, 'walcade.pid'), 'utf8')),
    slave.pid,
  );
  await edit(copy, { primary_conninfo: slave.conninfo });
  await copy.start();
  assert.match(await copy.log.text(), /LOG: {2}this node is a copy of node "slave"/);

  // It has an identity, no slots, and a slot of its own name on its upstream.
  const status = await copy.status();
  assert.notEqual(status.nodeId, nodeId);
  assert.deepEqual(status.slots, []);
  assert.equal(status.upstream.slot, 'slave2');
  const conf = await readFile(join(copy.directory, 'walcade.conf'), 'utf8');
  assert.match(conf, /^primary_slot_name = 'slave2'/m);
  assert.doesNotMatch(conf, /^primary_slot_name = 'slave'/m);
  await waitForValue('the slots of slave', 'downstream false, slave2 true', () => slots(slave));

  // The original is who it was, with its own slot on the master, and nobody else has one there.
  assert.equal((await slave.status()).nodeId, nodeId);
  await master.waitForSql('SELECT slot_name, active FROM pg_replication_slots', 'slave|t');
  await master.sql('CREATE TABLE number AS SELECT 1 AS value');
  await copy.waitForCatchup(master);
  assert.equal(await copy.sql('SELECT value FROM number'), '1');

  // A restart finds no copy, but the node that it has become.
  const mark = await copy.log.mark();
  await copy.restart();
  assert.equal((await copy.status()).nodeId, status.nodeId);
  assert.doesNotMatch(await copy.log.since(mark), /is a copy/);
});

test('a copy of a node whose slot has a name of its own gets another one', async (t) => {
  // The two shared it: the copy advanced it, and what the original still needed went.
  const { tree, master, slave } = await masterAndSlave(t, { args: ['--slot', 'first'] });
  await slave.stop();
  const copy = await copyOf(tree, slave, 'slave2');
  await copy.start();
  const slots = 'SELECT slot_name, active FROM pg_replication_slots ORDER BY 1';
  await master.waitForSql(slots, 'first|f\nslave2|t');
  await slave.start();

  // So does one that is made after a reload gave the original another slot.
  await edit(slave, { primary_slot_name: 'second' });
  slave.reload();
  await master.waitForSql(slots, 'first|f\nsecond|t\nslave2|t');
  await slave.stop();
  const other = await copyOf(tree, slave, 'slave3');
  await other.start();
  await master.waitForSql(slots, 'first|f\nsecond|f\nslave2|t\nslave3|t');

  // One that a person chose for a copy stays.
  await slave.start();
  await slave.stop();
  const chosen = await copyOf(tree, slave, 'slave4', { primary_slot_name: 'third' });
  await chosen.start();
  await master.waitForSql(slots, 'first|f\nsecond|f\nslave2|t\nslave3|t\nthird|t');
});

test('a directory that goes elsewhere under the same name stays the same node', async (t) => {
  const { tree, master, slave } = await masterAndSlave(t);
  const client = await WalClient.connect(tree, slave.conninfo);
  await client.query('CREATE_REPLICATION_SLOT downstream PHYSICAL RESERVE_WAL');
  const { nodeId } = await slave.status();
  await slave.stop();
  const moved = await copyOf(tree, slave, 'elsewhere', { cluster_name: 'slave' });
  await moved.start();

  // The same identity, slots, and slot on the master.
  assert.equal((await moved.status()).nodeId, nodeId);
  assert.equal(await slots(moved), 'downstream false');
  await master.waitForSql('SELECT slot_name, active FROM pg_replication_slots', 'slave|t');
  await master.sql('CREATE TABLE number AS SELECT 1 AS value');
  await moved.waitForCatchup(master);
});

const SENDER = 'slave|streaming';

/** A running plain PostgreSQL, and a running node with an attached server below it. */
async function masterAndSlave(t: TestContext, { args = [] }: { args?: string[] } = {}) {
  const tree = await TestDirectory.create(t);
  const master = await PostgresCluster.init(tree, { name: 'master' });
  await master.start();
  const slave = await WalcadeNode.init(tree, {
    name: 'slave',
    upstream: master.conninfo,
    withPostgres: true,
    args,
  });
  await slave.start();
  return { tree, master, slave };
}

/** A copy of the stopped node's directory under another name and port; it is not started. */
async function copyOf(
  tree: TestDirectory,
  original: WalcadeNode,
  name: string,
  settings: Record<string, string> = {},
): Promise<WalcadeNode> {
  const copy = await WalcadeNode.at(tree, { name });
  await run('cp', ['-a', original.directory, copy.directory]);
  await edit(copy, { port: String(copy.port), cluster_name: name, ...settings });
  return copy;
}

/** Edits settings where they stand in walcade.conf, as a person would. */
async function edit(node: WalcadeNode, settings: Record<string, string>): Promise<void> {
  const file = join(node.directory, 'walcade.conf');
  let text = await readFile(file, 'utf8');
  for (const [name, value] of Object.entries(settings)) text = setParameter(text, name, value);
  await writeFile(file, text);
}

/** The files in `directory`, outside of data/, that have the path `path` in them. */
async function filesNaming(directory: string, path: string): Promise<string[]> {
  const pattern = new RegExp(`${path}(?![\\w.])`);
  const found: string[] = [];
  for (const entry of await readdir(directory, { withFileTypes: true, recursive: true })) {
    const file = join(entry.parentPath, entry.name);
    if (!entry.isFile() || file.startsWith(join(directory, 'data/'))) continue;
    if (pattern.test(await readFile(file, 'latin1'))) found.push(file);
  }
  return found;
}

async function senders(node: WalcadeNode): Promise<string> {
  const { downstreams } = await node.status();
  return downstreams
    .map(({ applicationName, state }) => `${applicationName} ${state}`)
    .sort()
    .join(', ');
}

async function slots(node: WalcadeNode): Promise<string> {
  const { slots: all } = await node.status();
  return all
    .map(({ name, active }) => `${name} ${active}`)
    .sort()
    .join(', ');
}
