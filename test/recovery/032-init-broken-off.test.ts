/**
 * A `walcade init --with-postgres` that breaks off in the middle of its base backup: whatever ended
 * it, nothing is left here or upstream, but for what --keep asked for; and it says what it leaves.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Outcome, PROGRAM, assertDone, assertRefused } from '../harness/command-line.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { findPostgres, postgresUser } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';

/** Slow enough that a backup of an empty cluster lasts some seconds. */
const SLOW = { bytesPerSecond: 8_000_000 };

test('a connection that is cut at any point of the backup leaves nothing', async (t) => {
  const { tree, primary, network, location, elsewhere, init } = await primaryBehindNetwork(t);
  const inNode = (path: string) => () => existsSync(join(tree.path, 'node', path));
  let connectionsBefore = 0;
  const points: [string, () => boolean][] = [
    ['the first connection', () => network.connectionCount > connectionsBefore],
    ['that of the backup', () => network.connectionCount > connectionsBefore + 1],
    ['the tablespace', () => existsSync(elsewhere)],
    ['the data directory', inNode('data/PG_VERSION')],
    ['a catalog', inNode('data/base/1/PG_VERSION')],
  ];
  for (const [point, isReached] of points) {
    connectionsBefore = network.connectionCount;
    const { outcome } = init('--tablespace-mapping', `${location}=${elsewhere}`);
    await waitFor(point, isReached);
    network.resetAll();
    const refused = await outcome;
    const lost = /lost during the base backup$|closed the connection unex|reset by peer$/;
    assertRefused(refused, { message: lost });
    if (/base backup$/m.test(refused.stderr)) {
      assert.match(refused.stderr, /^HINT: {2}Take the base backup again\.$/m);
    }
    await assertNothingLeft(tree, primary);
  }

  // It can be had at the next try.
  network.setFaults({ bytesPerSecond: 0 });
  const { outcome } = init('--tablespace-mapping', `${location}=${elsewhere}`);
  assertDone(await outcome);
});

test('a backup that is interrupted leaves nothing, at once', async (t) => {
  const { tree, primary, network, location, elsewhere, init } = await primaryBehindNetwork(t);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    const { child, outcome } = init('--tablespace-mapping', `${location}=${elsewhere}`);
    await waitFor('data', () => existsSync(join(tree.path, 'node/data/backup_label')));
    child.kill(signal);
    assert.deepEqual(await outcome, {
      status: 1,
      stdout: '',
      stderr: `walcade: error: canceled by ${signal}\n`,
    });
    await assertNothingLeft(tree, primary);
  }

  // Also while the upstream says nothing any more: the slot is another matter.
  const { child, outcome } = init('--tablespace-mapping', `${location}=${elsewhere}`);
  await waitFor('data', () => existsSync(join(tree.path, 'node/data/backup_label')));
  network.cutSilently();
  child.kill('SIGINT');
  const { stderr } = await outcome;
  assert.match(stderr, SLOT_MAY_BE_LEFT);
  assert.match(stderr, /^walcade: error: canceled by SIGINT$/m);
  assert.deepEqual(await made(tree), []);
  assert.equal(await slotsOf(primary), 'node');
});

test('an upstream that is killed keeps the slot, of which init warns', async (t) => {
  const { tree, primary, location, elsewhere, init } = await primaryBehindNetwork(t);
  const { outcome } = init('--tablespace-mapping', `${location}=${elsewhere}`);
  await waitFor('data', () => existsSync(join(tree.path, 'node/data/backup_label')));
  await primary.kill9();
  const said = await outcome;
  assertRefused(said, {
    message: /^connection to upstream was lost during the base backup$/,
    detail: /^.* of about .* had come\.$/m,
    hint: /^Take the base backup again\.$/,
  });
  assert.match(said.stderr, SLOT_MAY_BE_LEFT);
  assert.deepEqual(await made(tree), []);
  await primary.start();
  assert.equal(await slotsOf(primary), 'node');
});

test('with --keep what came stays, and is no node', async (t) => {
  const { tree, primary, network, location, elsewhere, init } = await primaryBehindNetwork(t);
  const { outcome } = init('--keep', '--tablespace-mapping', `${location}=${elsewhere}`);
  await waitFor('data', () => existsSync(join(tree.path, 'node/data/backup_label')));
  network.resetAll();
  assertRefused(await outcome, { message: /^connection to upstream was lost during the base/ });
  assert.deepEqual(await fs.readdir(join(tree.path, 'node')), ['data']);
  assert.ok((await fs.readdir(join(tree.path, 'node/data'))).includes('backup_label'));
  assert.equal((await fs.readdir(elsewhere)).length, 1);
  assert.equal(await slotsOf(primary), '');

  // What broke off before anything came leaves no directory either.
  await fs.rm(join(tree.path, 'node'), { recursive: true });
  const { outcome: second } = init('--keep');
  assertRefused(await second, { message: /exists but is not empty/, hint: /-mapping/ });
  assert.deepEqual(await made(tree), ['ts']);
});

test('a standby that is promoted meanwhile gives no backup', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  // So slow that the most of it is still to come when the standby has been promoted.
  const network = await FaultyNetwork.between(tree, standby.port, { bytesPerSecond: 1_000_000 });
  const init = await initThrough(tree, network);
  const { outcome } = init();
  await waitFor('data', () => existsSync(join(tree.path, 'node/data/backup_label')));
  await standby.promote();
  network.setFaults({ bytesPerSecond: 0 });
  assertRefused(await outcome, {
    message: /^the standby was promoted during online backup$/,
    hint: /^This means that the backup being taken is corrupt and should not be used\. Try taking/,
  });
  assert.deepEqual(await made(tree), []);
  assert.equal(await slotsOf(standby), '');
});

test('a connection that idles during the backup may be lost meanwhile', async (t) => {
  // A firewall forgets a connection that is silent for hours; the one with the backup is not.
  const { tree, primary, network, location, elsewhere, init } = await primaryBehindNetwork(t);
  // On a later timeline there is something left to ask after the backup.
  await primary.becomeStandby();
  await primary.restart();
  await primary.promote();
  const { outcome } = init('--tablespace-mapping', `${location}=${elsewhere}`);
  await waitFor('data', () => existsSync(join(tree.path, 'node/data/backup_label')));
  await primary.sql(
    `SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE state <> 'backup'`,
  );
  network.setFaults({ bytesPerSecond: 0 });
  assertDone(await outcome);
  assert.equal(await slotsOf(primary), 'node');
});

const SLOT_MAY_BE_LEFT =
  /WARNING: {2}could not drop replication slot "node": .*\n.*HINT: {2}Drop it on the upstream/;

/** A primary with a tablespace, behind a slow network, and how init is started through it. */
async function primaryBehindNetwork(t: TestContext) {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  const location = await tree.makeDirectory('primary-ts');
  const user = await postgresUser();
  if (user !== undefined) await fs.chown(location, user.uid, user.gid);
  await primary.sql(`CREATE TABLESPACE ts LOCATION '${location}'`);
  await primary.sql('CREATE TABLE number TABLESPACE ts AS SELECT generate_series(1, 1000)');
  const network = await FaultyNetwork.between(tree, primary.port, SLOW);
  const init = await initThrough(tree, network);
  return { tree, primary, network, location, elsewhere: join(tree.path, 'ts'), init };
}

/** Gives what starts `walcade init --with-postgres` of a node in `tree`, through `network`. */
async function initThrough(tree: TestDirectory, network: FaultyNetwork) {
  const bin = dirname((await findPostgres()).postgres);
  const args = ['init', '-D', 'node', '--upstream', network.conninfo, '--with-postgres'];
  return (...more: string[]): { child: ChildProcess; outcome: Promise<Outcome> } => {
    const all = [PROGRAM, ...args, '--postgres-bin', bin, ...more];
    const child = spawn(process.execPath, all, {
      cwd: tree.path,
      env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    tree.add({ name: 'init', end: async () => void child.kill('SIGKILL') });
    const said = { stdout: '', stderr: '' };
    child.stdout.on('data', (text: Buffer) => (said.stdout += text.toString()));
    child.stderr.on('data', (text: Buffer) => (said.stderr += text.toString()));
    const outcome = new Promise<Outcome>((resolve) => {
      child.once('close', (status) => resolve({ status: status ?? -1, ...said }));
    });
    return { child, outcome };
  };
}

async function assertNothingLeft(tree: TestDirectory, primary: PostgresCluster): Promise<void> {
  assert.deepEqual(await made(tree), []);
  assert.equal(await slotsOf(primary), '');
}

/** What init has left in the test's directory. */
async function made(tree: TestDirectory): Promise<string[]> {
  return (await fs.readdir(tree.path)).filter((name) => ['node', 'ts'].includes(name));
}

function slotsOf(primary: PostgresCluster): Promise<string> {
  return primary.sql('SELECT string_agg(slot_name, $$,$$) FROM pg_replication_slots');
}
