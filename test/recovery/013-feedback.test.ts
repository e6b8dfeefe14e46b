/**
 * Hot standby feedback through relays: what the last standby's queries still see is kept by the
 * primary, for as long as somebody asks for it and no longer.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { RawSession } from '../harness/raw-session.ts';
import { SqlClient } from '../harness/sql-client.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const FEEDBACK = { hot_standby_feedback: 'on', wal_receiver_status_interval: '1s' };

test('the oldest xmin of two standbys below two relays is what the primary keeps', async (t) => {
  const { primary, relays, makeStandby } = await twoRelays(t, { args: ['--no-slot'] });
  const first = await makeStandby('standby1');
  const second = await makeStandby('standby2');
  const backendXmin =
    "SELECT backend_xmin FROM pg_stat_replication WHERE application_name = 'relay1'";

  // A snapshot on one standby, then a later one on the other.
  const older = await holdSnapshot(first);
  await spendTransactions(primary);
  await second.waitForCatchup(primary);
  const newer = await holdSnapshot(second);
  await spendTransactions(primary);
  assert.ok(older.xmin < newer.xmin);
  await primary.waitForSql(backendXmin, String(older.xmin));

  // It is the smallest of all; when its transaction ends, the next one's.
  await older.release();
  await primary.waitForSql(backendXmin, String(newer.xmin));

  // Without a slot it goes with the standby, and what the other one asks for is left.
  await second.stop('immediate');
  await newer.release();
  await waitFor('a newer xmin', async () => Number(await primary.sql(backendXmin)) > newer.xmin);

  // Switched off on a relay it is withdrawn; switched on, it comes back.
  const last = await holdSnapshot(first);
  await spendTransactions(primary);
  await primary.waitForSql(backendXmin, String(last.xmin));
  await relays[0].configure({ hot_standby_feedback: 'off' });
  relays[0].reload();
  await primary.waitForSql(backendXmin, '');
  await relays[0].configure({ hot_standby_feedback: 'on' });
  relays[0].reload();
  await primary.waitForSql(backendXmin, String(last.xmin));

  // When the last standby goes, nobody asks for anything.
  await first.stop('immediate');
  await last.release();
  await primary.waitForSql(backendXmin, '');
});

test('what a standby asks for outlives its connection with a slot on the relay only', async (t) => {
  const { tree, primary, relays, makeStandby } = await twoRelays(t, {});
  const slotXmin = `SELECT xmin FROM pg_replication_slots WHERE slot_name = 'relay1'`;
  const session = await RawSession.start(tree, relays[1].port);
  await session.answer('CREATE_REPLICATION_SLOT kept PHYSICAL');
  const standby = await makeStandby('standby1', 'kept');

  // It is in the slot of the standby, of the relay below and of the relay at the primary.
  const held = await holdSnapshot(standby);
  await spendTransactions(primary);
  await primary.waitForSql(slotXmin, String(held.xmin));
  const slotsOf = async (relay: WalcadeNode): Promise<string[]> =>
    (await relay.status()).slots.map(({ name, xmin }) => `${name} ${xmin}`);
  assert.deepEqual(await slotsOf(relays[0]), [`relay2 ${held.xmin}`]);
  assert.deepEqual(await slotsOf(relays[1]), [`kept ${held.xmin}`]);

  // The standby goes, and a restart of its relay makes no difference.
  await standby.stop('immediate');
  await held.release();
  await relays[1].restart();
  await spendTransactions(primary);
  await relays[1].waitForWal(await primary.currentLsn());
  assert.deepEqual(await slotsOf(relays[1]), [`kept ${held.xmin}`]);
  assert.equal(await primary.sql(slotXmin), String(held.xmin));

  // With its slot the claim is gone, up to the primary.
  const later = await RawSession.start(tree, relays[1].port);
  assert.deepEqual(await later.answer('DROP_REPLICATION_SLOT kept'), [
    'C DROP_REPLICATION_SLOT',
    'Z I',
  ]);
  await primary.waitForSql(slotXmin, '');
});

interface HeldSnapshot {
  /** The oldest transaction that the snapshot may still see. */
  xmin: number;
  release(): Promise<void>;
}

/** Takes a snapshot on a standby and holds it open. */
async function holdSnapshot(standby: PostgresCluster): Promise<HeldSnapshot> {
  const client = await SqlClient.single(standby.socketDirectory, standby.port);
  await client.run('BEGIN ISOLATION LEVEL REPEATABLE READ');
  const xmin = await client.run('SELECT pg_snapshot_xmin(pg_current_snapshot())');
  return { xmin: Number(xmin), release: () => client.close() };
}

async function spendTransactions(primary: PostgresCluster): Promise<void> {
  for (let i = 0; i < 5; i += 1) await primary.sql('INSERT INTO account VALUES (1)');
}

async function twoRelays(t: TestContext, { args = [] }: { args?: string[] }) {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE account (id int)');
  const relay = async (name: string, upstream: string): Promise<WalcadeNode> => {
    const node = await WalcadeNode.init(tree, { name, upstream, args, settings: FEEDBACK });
    await node.start();
    return node;
  };
  const upper = await relay('relay1', primary.conninfo);
  const lower = await relay('relay2', upper.conninfo);
  const from = await primary.backup(join(tree.path, 'backup'));
  const makeStandby = async (name: string, slot?: string): Promise<PostgresCluster> => {
    const standby = await PostgresCluster.standby(tree, {
      name,
      from,
      upstreamConninfo: lower.conninfo,
      settings: FEEDBACK,
      ...(slot === undefined ? {} : { slot }),
    });
    await standby.start();
    await standby.waitForCatchup(primary);
    return standby;
  };
  return { tree, primary, relays: [upper, lower] as const, makeStandby };
}
