/**
 * WAL that an attached server may need again: it stays, with no slot and whatever wal_keep_size is,
 * so that the server never needs anybody but its own node; so does what a base backup of it needs.
 */
import assert from 'node:assert/strict';
import { appendFile, readFile, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { readControlData } from '../../src/postgres/control-data.ts';
import { type Lsn, formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import {
  type AttachedCluster,
  assertSameRows,
  attachedCluster,
  dataDirectory,
  freezeServer,
  serverStatus,
} from '../harness/attached-cluster.ts';
import { killTree } from '../harness/process-tree.ts';
import { RawSession } from '../harness/raw-session.ts';
import { SEGMENT_BYTES, largeMessage } from '../harness/relayed-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const SEGMENTS = 8n;

for (const [how, hold] of [
  ['is frozen', freeze],
  ['is killed and does not start', keepDown],
  ['has replay paused', pause],
] as const) {
  test(`a server that ${how} for long catches up from its node alone`, async (t) => {
    const cluster = await attachedCluster(t);
    const { primary, node } = cluster;
    node.expectLog(/the attached PostgreSQL server was terminated by signal SIGKILL/);
    node.expectLog(/the attached PostgreSQL server has ended with exit status 1|FATAL: {2}config/);
    const release = await hold(cluster);
    const redo = await redoOf(cluster);
    await writeSegments(cluster);

    // The primary has removed its own, and is gone; the node has kept what is needed.
    await primary.waitForSql(
      `SELECT min(name) > pg_walfile_name('${formatLsn(redo)}') FROM pg_ls_waldir()
       WHERE name ~ '^[0-9A-F]{24}$'`,
      't',
    );
    const rows = await primary.dump();
    const end = await primary.currentLsn();
    await node.waitForWal(end);
    await primary.stop();
    assert.ok((await oldestOf(node)) <= redo);

    // Its server catches up.
    await release();
    await waitFor('SQL', () => node.sql('SELECT 1').catch(() => ''));
    await node.waitForReplay(end);
    assert.equal(await node.dump(), rows);

    // What is not needed any more goes.
    await primary.start();
    await writeSegments(cluster);
    await node.waitForCatchup(primary);
    await node.sql('CHECKPOINT');
    const later = await redoOf(cluster);
    assert.ok(later > redo);
    await waitFor('old WAL to be removed', async () => {
      return (await oldestOf(node)) > redo + 2n * BigInt(SEGMENT_BYTES);
    });
    assert.ok((await oldestOf(node)) <= (await redoOf(cluster)));
    await assertSameRows(primary, [node]);
  });
}

test('a slot that reserves WAL holds what a backup of the attached server needs', async (t) => {
  const cluster = await attachedCluster(t);
  const { tree, primary, node } = cluster;
  const release = await pause(cluster);
  await writeSegments(cluster);
  const redo = await redoOf(cluster);
  assert.ok(parseLsn((await node.status()).positions.served) > redo + BigInt(SEGMENT_BYTES));

  // A slot begins no later than the server's redo.
  const session = await RawSession.start(tree, node.port);
  await session.answer('CREATE_REPLICATION_SLOT "reserved" PHYSICAL RESERVE_WAL');
  const { slots } = await node.status();
  const reserved = slots.find(({ name }) => name === 'reserved')?.restartLsn ?? 'none';
  assert.ok(parseLsn(reserved) <= redo, `reserved ${reserved}`);
  await session.answer('DROP_REPLICATION_SLOT "reserved"');

  // A node made from this one begins there, and needs nobody else.
  await primary.stop();
  const second = await WalcadeNode.init(tree, {
    name: 'second',
    upstream: node.conninfo,
    withPostgres: true,
    settings: { wal_retrieve_retry_interval: '200ms', wal_keep_size: 0 },
  });
  await second.start();
  await second.waitForReplay(parseLsn((await node.status()).positions.served));
  await release();
  await node.waitForCatchup(second);
  assert.equal(await second.dump(), await node.dump());
  await primary.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('back')`);
  await assertSameRows(primary, [node, second]);
});

/** Stops the server in its tracks; gives what lets it go on. */
async function freeze(cluster: AttachedCluster): Promise<() => Promise<void>> {
  const thaw = await freezeServer(cluster);
  return async () => thaw();
}

/** Kills the server and breaks its configuration; gives what mends it. */
async function keepDown({ node }: AttachedCluster): Promise<() => Promise<void>> {
  const file = join(dataDirectory(node), 'postgresql.conf');
  const { size } = await stat(file);
  await appendFile(file, 'max_connections = many\n');
  const { pid } = await serverStatus(node);
  assert.ok(pid !== null);
  await killTree(pid);
  return () => truncate(file, size);
}

/** Pauses replay; gives what has it go on. */
async function pause({ node }: AttachedCluster): Promise<() => Promise<void>> {
  await node.sql('SELECT pg_wal_replay_pause()');
  return async () => void (await node.sql('SELECT pg_wal_replay_resume()'));
}

/** Fills segments on the primary, with checkpoints; waits until the node's retention has run. */
async function writeSegments({ primary, node }: AttachedCluster): Promise<void> {
  for (let segment = 0n; segment < SEGMENTS; segment++) {
    await primary.sql(largeMessage(1_200_000));
    await primary.sql(
      'INSERT INTO load (payload) SELECT md5(i::text) FROM generate_series(1, 9) i',
    );
    await primary.sql('CHECKPOINT');
  }
  await node.waitForWal(await primary.currentLsn());
  // It has looked again when it has told its control file of the end.
  const { flushed } = (await node.status()).positions;
  await waitFor('the retention to have run', async () => {
    const text = await readFile(join(node.directory, 'walcade.control'), 'utf8');
    return text.includes(flushed);
  });
}

async function redoOf({ node }: AttachedCluster): Promise<Lsn> {
  return (await readControlData(dataDirectory(node))).redo;
}

async function oldestOf(node: WalcadeNode): Promise<Lsn> {
  return parseLsn((await node.status()).positions.oldest);
}
