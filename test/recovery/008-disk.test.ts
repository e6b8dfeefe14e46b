/**
 * A disk that is full, fails or hangs, and WAL that arrives corrupt: the upstream is told nothing
 * false and is not held up, and the relay goes on by itself where it may.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseLsn } from '../../src/wal/lsn.ts';
import { isSegmentName } from '../../src/wal/segment.ts';
import { corruptingNetwork } from '../harness/corrupting-network.ts';
import { InProcessNode } from '../harness/in-process-node.ts';
import {
  Load,
  type RelayedCluster,
  type RelayedOptions,
  assertEqual,
  flushSeenBy,
  lastReported,
  relayedCluster,
} from '../harness/relayed-cluster.ts';
import { ServerProcess } from '../harness/server-process.ts';
import { type DiskOperation, TestDisk, systemError } from '../harness/test-disk.ts';
import { waitFor } from '../harness/wait.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/walcade', import.meta.url));
const STRACE = '/usr/bin/strace';
const NO_SPACE = /could not write WAL: No space left on device/;
const SHUTDOWN_MS_MAX = 15_000;

test('a relay whose disk is full lets its upstream go, and goes on with room', async (t) => {
  const { cluster, node, disk } = await onTestDisk(t);
  const { primary, relay } = cluster;
  node.expectLog(NO_SPACE);

  // From now on nothing can be written to a segment.
  disk.onOperation = (operation) => {
    if (operation.kind === 'write' && isSegment(operation)) throw systemError('ENOSPC');
  };
  await primary.sql(
    `INSERT INTO load (payload) SELECT repeat('x', 500) FROM generate_series(1, 50)`,
  );
  const error = await node.waitForLog(NO_SPACE);
  assert.equal(error.level, 'error');
  assert.equal(error.sqlstate, '53100');
  assert.match(error.hint ?? '', /Free disk space/);

  // The upstream has been told what is durable and no more, and shuts down at once.
  await assertDisconnected(cluster);
  await assertQuickShutdown(cluster);
  await primary.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('while the disk is full')`);
  assert.equal((await relay.status()).failure, error.message);
  assert.equal(await flushSeenBy(primary), undefined);

  // With room it goes on; it has complained once.
  disk.onOperation = () => {};
  await assertEqualOn(cluster, node, disk);
  assert.equal(node.entries(NO_SPACE).length, 1);
});

test('so it does on a real file system that is full', async (t) => {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) {
    t.diagnostic('only root can mount a file system: the test before this one stands for it');
    return;
  }
  const cluster = await relayedCluster(t, {
    startRelay: async (tree, relay) => {
      // The relay keeps more than there is room for.
      const directory = join(relay.directory, 'pg_wal');
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'walcade-test', directory]);
      const end = (): Promise<void> => {
        execFileSync('umount', ['--lazy', directory]);
        return Promise.resolve();
      };
      tree.add({ name: 'file system', end });
      await relay.start();
    },
  });
  const { primary, relay } = cluster;
  relay.expectLog(/ERROR: {2}.*could not write WAL: No space left on device/);
  const load = new Load(primary);
  await relay.waitForLog(NO_SPACE);
  await load.stop();
  await assertDisconnected(cluster);
  await assertQuickShutdown(cluster);
  await primary.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('while the disk is full')`);

  execFileSync('mount', ['-o', 'remount,size=200m', join(relay.directory, 'pg_wal')]);
  await assertEqual(cluster);
  const complaints = (await relay.log.text()).match(new RegExp(NO_SPACE, 'g')) ?? [];
  assert.equal(complaints.length, 1);
});

test('a failed fsync ends the node; the next start finds what was reported', async (t) => {
  const { cluster, node, disk } = await onTestDisk(t);
  const { primary } = cluster;
  let syncs = 0;
  disk.onOperation = (operation) => {
    if (operation.kind !== 'sync' || !isSegment(operation)) return;
    syncs += 1;
    throw systemError('EIO');
  };
  const flushed = await flushSeenBy(primary);
  assert.ok(flushed !== undefined);
  await primary.sql(`INSERT INTO load (payload) VALUES ('not durable')`);
  await assert.rejects(node.waitForEnd(), {
    sqlstate: '58030',
    message: 'could not fsync WAL: Input/output error',
  });
  assert.equal(syncs, 1, 'it is never tried again');
  assert.ok((await lastReported(primary)) <= flushed, 'what was not synced was not reported');

  // The power goes too, and with it all that was not synced.
  disk.cutPower();
  const found = disk.afterPowerCut(() => false);
  await node.start({ disk: found });
  await assertEqualOn(cluster, node, found);
});

test('a failed fsync of the real program ends it with status 1 and a word', async (t) => {
  if (!existsSync(STRACE)) {
    t.diagnostic(`there is no ${STRACE}: the test before this one stands for it`);
    return;
  }
  const cluster = await relayedCluster(t);
  const { tree, primary, relay } = cluster;
  await relay.stop();
  const inject = ['-e', 'trace=fdatasync', '-e', 'inject=fdatasync:error=EIO:when=25+'];
  const run = [process.execPath, PROGRAM, 'run', '-D', relay.directory];
  const traced = await ServerProcess.spawn({
    name: 'relay under strace',
    program: STRACE,
    args: ['-f', '-qq', '-o', join(tree.path, 'strace.out'), ...inject, ...run],
    log: relay.log,
    environment: process.env,
  });
  tree.add({
    name: 'relay under strace',
    end: async () => {
      await traced.stop('SIGKILL');
    },
  });
  relay.expectLog(/FATAL: .*could not fsync (?:WAL|file "walcade\.control"): Input\/output error/);
  const mark = await relay.log.mark();
  const load = new Load(primary);
  assert.equal(await traced.exit(), 'exit status 1');
  await load.stop();
  assert.match(await relay.log.since(mark), /FATAL: {2}could not fsync/);

  // The next start goes on as if nothing had been.
  await relay.start();
  await assertEqual(cluster);
});

test('a disk that does not answer costs the upstream connection until it does', async (t) => {
  const { cluster, node, disk } = await onTestDisk(t, {
    relaySettings: { wal_receiver_timeout: '2s' },
  });
  const { primary } = cluster;
  node.expectLog(/disk has not answered for \d+ ms/);
  let release = (): void => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  disk.onOperation = (operation) =>
    operation.kind === 'sync' && isSegment(operation) ? released : undefined;
  const started = performance.now();
  await primary.sql(`INSERT INTO load (payload) VALUES ('on a disk that hangs')`);
  const { level, detail } = await node.waitForLog(/disk has not answered/);
  assert.equal(level, 'error');
  assert.equal(detail, 'The upstream connection is closed until it does.');
  // Half of wal_receiver_timeout, but no less than 10 s: a disk under load is not accused.
  const elapsedMs = performance.now() - started;
  assert.ok(elapsedMs > 9_000 && elapsedMs < 20_000, `accused after ${elapsedMs} ms`);

  // The primary sees nobody, shuts down at once, and is not asked again by the time it is back.
  await assertDisconnected(cluster);
  const mark = node.mark();
  await assertQuickShutdown(cluster);
  await primary.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('meanwhile')`);
  assert.equal(await flushSeenBy(primary), undefined);
  assert.equal(node.entries(/streaming|connect/, mark).length, 0);

  // The fsync returns: it goes on.
  disk.onOperation = () => {};
  release();
  await node.waitForLog(/started streaming WAL/, mark);
  await assertEqualOn(cluster, node, disk);
});

test('WAL corrupted on its way is never forwarded nor reported, and fetched again', async (t) => {
  const network = corruptingNetwork('a bit of this is flipped');
  const { cluster, node, disk } = await onTestDisk(t, {}, network);
  const { primary, relay, standby } = cluster;
  node.expectLog(/received corrupt WAL from upstream/);
  const before = await primary.currentLsn();
  await relay.waitForWal(before);

  // Each time that it is sent it arrives with another bit flipped.
  network.isCorrupting = true;
  await primary.sql(`INSERT INTO load (payload) VALUES (repeat('a bit of this is flipped, ', 60))`);
  const end = await primary.currentLsn();
  const error = await node.waitForLog(/received corrupt WAL from upstream/);
  assert.equal(error.level, 'error');
  assert.equal(error.sqlstate, 'XX001');
  const [, where = ''] = /record at (\S+)$/.exec(error.message) ?? [];
  const record = parseLsn(where);
  assert.ok(before <= record && record < end, `${where} is the record that was changed`);
  await waitFor('it to be fetched again', () => network.corruptedCount >= 3);
  const { served, proven } = (await relay.status()).positions;
  assert.ok(parseLsn(served) <= record);
  assert.ok(parseLsn(proven) <= record);
  assert.ok((await standby.replayLsn()) <= record);
  const reported = await primary.sql(
    `SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'relay'`,
  );
  assert.ok(parseLsn(reported) <= record, `${reported} was reported`);

  // When it arrives unchanged all goes on; the error was told once.
  network.isCorrupting = false;
  await assertEqualOn(cluster, node, disk);
  assert.equal(node.entries(/received corrupt WAL/).length, 1);
  assert.doesNotMatch(await standby.log.text(), /incorrect resource manager data checksum/);
});

/** A primary, a relay on a disk in memory, in this process, and a standby. */
async function onTestDisk(
  t: TestContext,
  options: RelayedOptions = {},
  network = corruptingNetwork(''),
): Promise<{ cluster: RelayedCluster; node: InProcessNode; disk: TestDisk }> {
  let started: { node: InProcessNode; disk: TestDisk } | undefined;
  const cluster = await relayedCluster(t, {
    ...options,
    startRelay: async (tree, { directory }) => {
      const disk = await TestDisk.load(directory);
      const node = new InProcessNode(tree, directory);
      await node.start({ disk, network });
      started = { node, disk };
    },
  });
  assert.ok(started);
  return { cluster, ...started };
}

/** WAL, that is; not a segment that has none yet, nor the control file. */
function isSegment({ path }: DiskOperation): boolean {
  return isSegmentName(path.slice(path.lastIndexOf('/') + 1));
}

/** The relay is gone, and has told the primary of nothing that it does not have durably. */
async function assertDisconnected({ primary, relay }: RelayedCluster): Promise<void> {
  const reported = await lastReported(primary);
  const { flushed } = (await relay.status()).positions;
  assert.ok(reported <= parseLsn(flushed), `flushed ${flushed}`);
}

async function assertQuickShutdown({ primary }: RelayedCluster): Promise<void> {
  const started = performance.now();
  await primary.stop('fast');
  const tookMs = performance.now() - started;
  assert.ok(tookMs < SHUTDOWN_MS_MAX, `the shutdown took ${tookMs} ms`);
}

/** As assertEqual; what the disk in memory holds is put where the program and others look. */
async function assertEqualOn(
  cluster: RelayedCluster,
  node: InProcessNode,
  disk: TestDisk,
): Promise<void> {
  await cluster.standby.waitForCatchup(cluster.primary);
  await node.stop();
  await disk.save();
  await cluster.relay.start();
  await assertEqual(cluster);
}
