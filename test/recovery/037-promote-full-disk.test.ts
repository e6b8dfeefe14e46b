/**
 * Promotions where there is no room: for the node's WAL, for its slot on the server, and for what
 * the server writes to promote itself. What cannot be done is told and undone; the rest is.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { readServerRole } from '../../src/postgres/server-role.ts';
import {
  type AttachedCluster,
  attachedCluster,
  dataDirectory,
  serverStatus,
  standbyBehind,
  waitUntilReady,
} from '../harness/attached-cluster.ts';
import { connectionsBelow, relayOf } from '../harness/follow-steps.ts';
import { Load } from '../harness/relayed-cluster.ts';
import { NOT_MOUNTED, canMount, mountOn, resizeMount } from '../harness/small-disk.ts';
import { waitFor } from '../harness/wait.ts';
import type { CommandOutcome } from '../harness/walcade-node.ts';

const STORE_FULL = /ERROR: .*could not write WAL: No space left on device/;
const NO_SPACE = /No space left on device/;

// The receiver could not be held while its disk was full, and every promotion was given up.
test('a node without room for WAL is promoted with what it has, and leads with room', async (t) => {
  if (!canMount) return t.diagnostic(NOT_MOUNTED);
  const cluster = await attachedCluster(t, {
    nodeSettings: { wal_keep_size: '1GB' },
    startNode: async ({ tree, node }) => {
      mountOn(tree, join(node.directory, 'pg_wal'), { freeMegabytes: 24 });
      await node.start();
    },
  });
  const { primary, node } = cluster;
  const relay = await relayOf(cluster.tree, node.conninfo, 'relay');
  const before = await connectionsBelow(node);
  node.expectLog(STORE_FULL);
  const load = new Load(primary, { slot: 'node' });
  await node.waitForLog(STORE_FULL);
  await load.stop();
  await primary.stop();

  // What the disk has refused was received, and is not here.
  const refused = await promote(cluster);
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /cannot promote node; it is \d+ bytes behind its upstream/);

  const { code, stderr } = await promote(cluster, '--force');
  assert.equal(code, 0, stderr);
  assert.match((await node.status()).failure ?? '', NO_SPACE);

  resizeMount(join(node.directory, 'pg_wal'), 400);
  await node.sql(`INSERT INTO load (payload) VALUES ('of timeline 2')`);
  await relay.waitForWal(await node.currentLsn());
  assert.equal((await relay.status()).timeline, 2);
  assert.deepEqual(await connectionsBelow(node), before);
});

for (const [what, freeKilobytes, words] of [
  [
    'the slot',
    0,
    /could not make replication slot "walcade_node" on the attached PostgreSQL server/,
  ],
  ['the new timeline', 200, /server has broken off its promotion/],
] as const) {
  test(`a server without room for ${what} stays a standby, and says why`, async (t) => {
    if (!canMount) return t.diagnostic(NOT_MOUNTED);
    const cluster = await attachedCluster(t, {
      startNode: async ({ tree, node }) => {
        mountOn(tree, dataDirectory(node), { freeMegabytes: 20 });
        await node.start();
      },
    });
    const { primary, node } = cluster;
    const standby = await standbyBehind(cluster);
    const receiver = await standby.walReceiverPid();
    node.expectLog(/No space left on device|wrote only/);
    node.expectLog(/WARNING: .*the attached PostgreSQL server has ended/);
    node.expectLog(/(?:FATAL|WARNING): {2}terminating/);
    const ballast = fill(cluster, freeKilobytes);

    const refused = await promote(cluster);
    assert.equal(refused.code, 1);
    t.diagnostic(refused.stderr);
    assert.match(refused.stderr, words);
    assert.match(refused.stderr, NO_SPACE);
    assert.equal(await readServerRole(dataDirectory(node)), 'standby');

    // With room it is a standby as before, and can be promoted.
    rmSync(ballast);
    await waitUntilReady(node);
    await primary.sql(`INSERT INTO load (payload) VALUES ('of timeline 1')`);
    await node.waitForCatchup(primary);
    await waitFor('the server to be a standby', async () => {
      return (await serverStatus(node)).role === 'standby';
    });
    await primary.stop();
    const { code, stderr } = await promote(cluster);
    assert.equal(code, 0, stderr);
    await node.sql(`INSERT INTO load (payload) VALUES ('of timeline 2')`);
    await standby.waitForCatchup(node);
    assert.equal(await standby.dump(), await node.dump());
    assert.equal(await standby.walReceiverPid(), receiver);
  });
}

function promote({ node }: AttachedCluster, ...args: string[]): Promise<CommandOutcome> {
  return node.cli(['promote', '-D', node.directory, '-t', '30', ...args]);
}

/** Fills the disk of the node's data, but for so much; gives the file. */
function fill({ node }: AttachedCluster, freeKilobytes: number): string {
  const path = dataDirectory(node);
  const ballast = join(path, 'ballast');
  const lines = execFileSync('df', ['--output=avail', '-k', path]).toString().trim().split('\n');
  const kilobytes = Number(lines.at(-1)) - freeKilobytes;
  execFileSync('fallocate', ['-l', `${kilobytes}KiB`, ballast]);
  return ballast;
}
