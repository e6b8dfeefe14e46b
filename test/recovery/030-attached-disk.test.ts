/**
 * Disks that are full under a node with an attached server, one part at a time: the server's data
 * without room costs no downstream its WAL, the node's WAL without room costs no client its SQL,
 * and both go on by themselves. And what the server makes of a segment that is not finished.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseLsn } from '../../src/wal/lsn.ts';
import {
  type AttachedCluster,
  assertSameRows,
  attachedCluster,
  serverStatus,
  standbyBehind,
  waitUntilReady,
} from '../harness/attached-cluster.ts';
import { killTree } from '../harness/process-tree.ts';
import { Load } from '../harness/relayed-cluster.ts';
import { NOT_MOUNTED, canMount, mountOn, resizeMount } from '../harness/small-disk.ts';
import { SqlClient } from '../harness/sql-client.ts';
import { waitFor } from '../harness/wait.ts';

const NO_SPACE = /No space left on device/;
/** With the last block there is room for a part of a page. */
const SERVER_FULL = /No space left on device|wrote only \d+ of 8192 bytes/;
/** It has ended, is about to, or has no WAL receiver that could go on. */
const SERVER_TROUBLE = /No space left|wrote only|WAL receiver is not connected/;
const STORE_FULL = /ERROR: .*could not write WAL: No space left on device/;
const BROKEN_WAL = /PANIC|incorrect resource manager data checksum/;
const SHUTDOWN_MS_MAX = 15_000;
const WAL_SPACE_MEGABYTES = 24;

test('a server whose disk is full costs no downstream its WAL', async (t) => {
  if (!canMount) return t.diagnostic(NOT_MOUNTED);
  const cluster = await attachedCluster(t, {
    startNode: async (made) => {
      mountOn(made.tree, join(made.node.directory, 'data'), { freeMegabytes: 12 });
      await made.node.start();
    },
  });
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  node.expectLog(SERVER_FULL);
  node.expectLog(/WARNING: .*the attached PostgreSQL server (?:has ended|was terminated)/);
  node.expectLog(/(?:FATAL|WARNING): {2}terminating/);

  // There is room for some rows and not for these.
  await primary.sql(`INSERT INTO load (payload)
    SELECT repeat(md5(i::text), 30) FROM generate_series(1, 40000) i`);
  const { reason, lagBytes } = await waitFor('the server to be stuck', async () => {
    const status = await serverStatus(node);
    if (!SERVER_FULL.test(await node.log.text())) return undefined;
    const isStuck = status.reason !== null || (status.lagBytes ?? 0) > 5_000_000;
    return isStuck ? status : undefined;
  });
  // Without room for rows it has ended, without room for its copy of WAL it is behind.
  t.diagnostic(`the status says: ${reason ?? `${lagBytes} bytes behind`}`);
  if (reason !== null) assert.match(reason, SERVER_TROUBLE);

  // Downstream nothing is missing, and the node goes on receiving.
  await primary.sql(`INSERT INTO load (payload) VALUES ('while the disk is full')`);
  await assertSameRows(primary, [standby]);
  const { upstream, downstreams, failure } = await node.status();
  assert.deepEqual([upstream.state, downstreams.length, failure], ['streaming', 1, null]);

  // With room it comes back.
  resizeMount(join(node.directory, 'data'), 400);
  await waitUntilReady(node);
  await waitFor('SQL', () => node.sql('SELECT 1').catch(() => ''));
  await assertSameRows(primary, [node, standby]);
  assert.equal((await serverStatus(node)).reason, null);
});

test('a node without room for WAL answers SQL, and goes on with room', async (t) => {
  if (!canMount) return t.diagnostic(NOT_MOUNTED);
  const cluster = await attachedCluster(t, {
    // It keeps more than there is room for.
    nodeSettings: { wal_keep_size: '1GB' },
    startNode: async (made) => {
      mountOn(made.tree, join(made.node.directory, 'pg_wal'), {
        freeMegabytes: WAL_SPACE_MEGABYTES,
      });
      await made.node.start();
    },
  });
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  node.expectLog(STORE_FULL);
  const before = (await node.status()).downstreams.map(({ pid }) => pid);
  const load = new Load(primary, { slot: 'node' });
  await node.waitForLog(STORE_FULL);
  await load.stop();

  // Its upstream is let go, and shuts down at once.
  const startedMs = performance.now();
  await primary.stop('fast');
  const tookMs = performance.now() - startedMs;
  assert.ok(tookMs < SHUTDOWN_MS_MAX, `the shutdown took ${tookMs} ms`);

  // SQL is answered with all that was replayed; downstream nobody is disconnected.
  assert.match((await node.status()).failure ?? '', NO_SPACE);
  await waitFor('both to have replayed all that is served', async () => {
    return (await node.dump()) === (await standby.dump());
  });
  const pids = async (): Promise<number[]> =>
    (await node.status()).downstreams.map(({ pid }) => pid);
  assert.deepEqual(await pids(), before);

  // With room all goes on.
  await primary.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('while the disk is full')`);
  resizeMount(join(node.directory, 'pg_wal'), 400);
  await assertSameRows(primary, [node, standby]);
  assert.deepEqual(await pids(), before);
  assert.equal((await serverStatus(node)).restarts, 0);
  assert.equal((await node.log.text()).match(new RegExp(STORE_FULL, 'g'))?.length, 1);
});

test('a server that restarts in the middle of a large record replays no garbage', async (t) => {
  const cluster = await attachedCluster(t);
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  node.expectLog(/WARNING: .*the attached PostgreSQL server was terminated by signal SIGKILL/);
  for (const end of ['it is finished', 'its primary is killed'] as const) {
    // The node has the beginning of a record of several segments.
    const { restarts } = await serverStatus(node);
    const rest = await leaveRecordUnflushed(cluster);
    const { received, proven } = (await node.status()).positions;
    t.diagnostic(`received ${received}, proven ${proven}`);

    // Its server restores what there is, up to the record.
    await killServer(cluster);
    await waitUntilReady(node, { restarts: restarts + 1 });
    await waitFor('SQL', () => node.sql('SELECT 1').catch(() => ''));
    await node.waitForReplay(parseLsn(proven));

    // The record is finished, or something else takes its place.
    if (end === 'it is finished') await rest.run('COMMIT');
    else {
      await primary.kill9();
      await primary.start();
    }
    await rest.close();
    await primary.sql(`INSERT INTO load (payload) VALUES ('when ${end}')`);
    await assertSameRows(primary, [node, standby]);

    // So it does with what it has on its own disk from before.
    await killServer(cluster);
    await waitUntilReady(node, { restarts: restarts + 2 });
    await waitFor('SQL', () => node.sql('SELECT 1').catch(() => ''));
    await assertSameRows(primary, [node]);
  }
  assert.doesNotMatch(await node.log.text(), BROKEN_WAL);
  assert.doesNotMatch(await standby.log.text(), BROKEN_WAL);
});

async function killServer({ node }: AttachedCluster): Promise<void> {
  const { pid } = await serverStatus(node);
  assert.ok(pid !== null);
  await killTree(pid);
}

/** Leaves a transaction open whose record of 6 MB the node has received a part of. */
async function leaveRecordUnflushed({ primary, node }: AttachedCluster): Promise<SqlClient> {
  const client = await SqlClient.single(primary.socketDirectory, primary.port);
  await client.run('BEGIN');
  await client.run(`SELECT pg_logical_emit_message(false, 'large', repeat('x', 6000000))`);
  await waitFor('a record that is not whole yet', async () => {
    const { received, proven } = (await node.status()).positions;
    return parseLsn(received) > parseLsn(proven) + 2_000_000n;
  });
  return client;
}
