/**
 * Crashes of a node with an attached server: of the node, of the server, of both and of who
 * watches. What is left is no server that nobody runs; the next start finds all rows, and who
 * reads WAL from the node does not notice that its server is gone.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { readControlData } from '../../src/postgres/control-data.ts';
import {
  assertCleanEnd,
  assertSameRows,
  attachedCluster,
  dataDirectory,
  freezeServer,
  processesOf,
  serverStatus,
  standbyBehind,
  waitUntilGone,
  waitUntilReady,
  watcherPid,
} from '../harness/attached-cluster.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { killTree } from '../harness/process-tree.ts';
import { Load } from '../harness/relayed-cluster.ts';
import { ServerLog } from '../harness/server-log.ts';
import { ServerProcess } from '../harness/server-process.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/walcade', import.meta.url));
const KILLS = 10;
const KILLED = /WARNING: .*the attached PostgreSQL server was terminated by signal SIGKILL/;
const BROKEN_WAL = /PANIC|incorrect resource manager data checksum/;

test('a node killed ten times under load leaves no server, and comes back with all', async (t) => {
  const cluster = await attachedCluster(t);
  const { primary, node } = cluster;
  const load = new Load(primary, { slot: 'node' });
  for (let kill = 1; kill <= KILLS; kill++) {
    // It replays, and is killed.
    const before = await node.replayLsn();
    await waitFor('rows to come', async () => (await node.replayLsn()) > before);
    const { pid } = await serverStatus(node);
    await node.kill9();
    if (kill % 2 === 0) {
      // The watcher ends the server, in order, and then itself.
      await waitUntilGone(node);
      await assertCleanEnd(node);
    }

    // Started again, at once or while the old server is still shutting down, it answers.
    await node.start();
    assert.notEqual((await serverStatus(node)).pid, pid);
  }
  await load.stop();
  await assertSameRows(primary, [node]);
  assert.equal(await node.stop(), 'exit status 0');
  await waitUntilGone(node);
  await assertCleanEnd(node);
  assert.doesNotMatch(await node.log.text(), BROKEN_WAL);
});

test('a server that is killed is started again; nobody downstream notices', async (t) => {
  const cluster = await attachedCluster(t);
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  node.expectLog(KILLED);
  const downstream = (await node.status()).downstreams.map(({ pid }) => pid);
  assert.equal(downstream.length, 1);

  for (const [restarts, kill] of [
    [1, (pid: number) => killTree(pid)],
    // Its children find out and end by themselves, while the next one may be starting.
    [2, async (pid: number) => void process.kill(pid, 'SIGKILL')],
  ] as const) {
    const load = new Load(primary, { slot: 'node' });
    const mark = await node.log.mark();
    const { pid } = await serverStatus(node);
    assert.ok(pid !== null);
    await kill(pid);
    // It is told, once, and it comes back by itself.
    await node.waitForLog(KILLED, { since: mark });
    await standby.waitForCatchup(primary);
    await waitUntilReady(node, { restarts });
    await waitFor('SQL to be answered', () => node.sql('SELECT 1').catch(() => ''));
    assert.equal((await node.log.since(mark)).match(new RegExp(KILLED, 'g'))?.length, 1);
    // It is ready before its WAL receiver is connected: while there are whole segments to restore.
    await load.stop();
    const status = await waitFor('its WAL receiver', async () => {
      const now = await serverStatus(node);
      return now.reason === null ? now : undefined;
    });
    assert.equal(status.restarts, restarts);
  }
  await assertSameRows(primary, [node, standby]);
  assert.deepEqual(
    (await node.status()).downstreams.map(({ pid }) => pid),
    downstream,
  );
  assert.doesNotMatch(await node.log.text(), BROKEN_WAL);
});

test('a node and its server killed together come back with all rows', async (t) => {
  const { primary, node } = await attachedCluster(t);
  const load = new Load(primary, { slot: 'node' });
  for (const victims of ['both', 'all three'] as const) {
    const before = await node.replayLsn();
    await waitFor('rows to come', async () => (await node.replayLsn()) > before);
    const { pid } = await serverStatus(node);
    assert.ok(pid !== null);
    if (victims === 'all three') process.kill(await watcherPid(node), 'SIGKILL');
    await Promise.all([node.kill9(), killTree(pid)]);
    await waitUntilGone(node);
    assert.equal((await readControlData(dataDirectory(node))).state, 'in archive recovery');
    await node.start();
  }
  node.expectLog(/the process that watches the attached server has ended/);
  await load.stop();
  await assertSameRows(primary, [node]);
  assert.doesNotMatch(await node.log.text(), BROKEN_WAL);
});

test('a server that nobody runs nor watches any more is ended by the next start', async (t) => {
  const { primary, node } = await attachedCluster(t);
  node.expectLog(/the process that watches the attached server has ended/);
  const { pid } = await serverStatus(node);
  node.freeze();
  process.kill(await watcherPid(node), 'SIGKILL');
  await node.kill9();
  const left = await processesOf(node);
  assert.ok(
    left.some((line) => Number.parseInt(line, 10) === pid),
    'the server runs on',
  );
  await node.start();
  assert.match(await node.log.text(), /waiting until the attached PostgreSQL server of an earlier/);
  assert.notEqual((await serverStatus(node)).pid, pid);
  await assertSameRows(primary, [node]);
});

test('a server that is frozen stops no WAL, and goes on when it is let', async (t) => {
  const cluster = await attachedCluster(t);
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  const { pid } = await serverStatus(node);
  assert.ok(pid !== null);

  // Only its postmaster: who has a session keeps it.
  process.kill(pid, 'SIGSTOP');
  await primary.sql(`INSERT INTO load (payload) VALUES ('postmaster frozen')`);
  await assertSameRows(primary, [standby]);
  await node.waitForCatchup(primary);
  process.kill(pid, 'SIGCONT');

  // All of it, and longer than the node's patience with a downstream: its WAL goes to the others.
  await node.configure({ wal_sender_timeout: '2s' });
  node.reload();
  node.expectLog(/could not receive data from WAL stream/);
  const thaw = await freezeServer(cluster);
  const load = new Load(primary, { slot: 'node' });
  await node.waitForLog(
    /attached server\] terminating WAL sender session due to replication timeout/,
  );
  await standby.waitForCatchup(primary);
  thaw();
  await load.stop();
  await assertSameRows(primary, [node, standby]);
  assert.equal((await serverStatus(node)).restarts, 0);
});

test('an immediate stop leaves no process, and the next start recovers', async (t) => {
  const { primary, node } = await attachedCluster(t);
  const load = new Load(primary, { slot: 'node' });
  for (let round = 1; round <= 3; round++) {
    const before = await node.replayLsn();
    await waitFor('rows to come', async () => (await node.replayLsn()) > before);
    const { code, stdout } = await node.cli(['stop', '-D', node.directory, '-m', 'immediate']);
    assert.deepEqual([code, stdout], [0, 'node stopped\n']);
    assert.equal(await node.waitForExit(), 'exit status 2');
    await waitUntilGone(node);
    assert.equal((await readControlData(dataDirectory(node))).state, 'in archive recovery');
    await node.start();
  }
  await load.stop();
  await assertSameRows(primary, [node]);
});

test('an init that is killed leaves a slot upstream, which the next one names', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  const network = await FaultyNetwork.between(tree, primary.port, { bytesPerSecond: 2_000_000 });
  const options = { name: 'node', upstream: network.conninfo, withPostgres: true };
  const directory = join(tree.path, 'node');

  // Killed while the base backup runs.
  const programs = dirname(primary.binaries.postgres);
  const upstream = ['--upstream', network.conninfo, '--with-postgres', '--postgres-bin', programs];
  const init = await ServerProcess.spawn({
    name: 'init',
    program: process.execPath,
    args: [PROGRAM, 'init', '-D', directory, ...upstream],
    log: new ServerLog(join(tree.path, 'init.log')),
    environment: process.env,
  });
  await waitFor('the first files', () => existsSync(join(directory, 'data', 'base')));
  assert.equal(await primary.sql('SELECT count(*) FROM pg_stat_progress_basebackup'), '1');
  await init.stop('SIGKILL');
  network.setFaults({ bytesPerSecond: 0 });
  await primary.waitForSql('SELECT count(*) FROM pg_stat_progress_basebackup', '0');

  // What is left says what it is.
  await assert.rejects(WalcadeNode.init(tree, options), /is not empty/);
  await rm(directory, { recursive: true });
  await assert.rejects(
    WalcadeNode.init(tree, options),
    /replication slot "node" already exists on the upstream[^]*drop that slot if nobody needs it/,
  );
  assert.equal(await primary.sql('SELECT slot_name, active FROM pg_replication_slots'), 'node|f');
  await primary.sql(`SELECT pg_drop_replication_slot('node')`);
  const node = await WalcadeNode.init(tree, options);
  await node.start();
  await node.waitForCatchup(primary);
});
