/**
 * Replication slots on a relay, over the wire: made, read, dropped, lost with their session or
 * kept over a crash; and that they, with wal_keep_size, decide which WAL stays.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { WalcadeError } from '../../src/base/errors.ts';
import { type Lsn, parseLsn } from '../../src/wal/lsn.ts';
import { segmentStart } from '../../src/wal/segment.ts';
import { testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalClient } from '../harness/wal-client.ts';
import { listSegments } from '../harness/wal-files.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const SEGMENT_BYTES = 1024 * 1024;

test('slots are made, read and dropped over the wire as on PostgreSQL', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t);
  const client = await WalClient.connect(tree, relay.conninfo);

  // Without RESERVE_WAL a slot has no position; with it, that of the last checkpoint's redo.
  assert.deepEqual(await client.query('CREATE_REPLICATION_SLOT plain PHYSICAL'), [
    ['plain', '0/0', null, null],
  ]);
  assert.deepEqual(await readSlot(client, relay, 'plain'), ['physical', null, null]);
  await primary.sql('CHECKPOINT');
  await primary.sql('INSERT INTO number VALUES (1)');
  await relay.waitForWal(await primary.currentLsn());
  const redo = await primary.sql('SELECT redo_lsn FROM pg_control_checkpoint()');
  await client.query('CREATE_REPLICATION_SLOT "reserved" PHYSICAL RESERVE_WAL');
  assert.deepEqual(await readSlot(client, relay, 'reserved'), ['physical', redo, '1']);

  // What is wrong is refused with PostgreSQL's SQLSTATE, and the session goes on.
  for (const [command, sqlstate] of [
    ['CREATE_REPLICATION_SLOT plain PHYSICAL', '42710'],
    ['CREATE_REPLICATION_SLOT "Bad Name" PHYSICAL', '42602'],
    ['DROP_REPLICATION_SLOT nosuch', '42704'],
    ['START_REPLICATION SLOT nosuch 0/1000000', '42704'],
  ] as const) {
    await assert.rejects(client.query(command), { sqlstate }, command);
  }
  assert.deepEqual(await readSlot(client, relay, 'nosuch'), [null, null, null]);

  // A slot that a session streams from is taken, for another one and for dropping.
  const user = await WalClient.connect(tree, relay.conninfo);
  const end = await primary.currentLsn();
  const start = segmentStart(end, SEGMENT_BYTES);
  await user.receive({ start, end, slot: 'plain' });
  await assert.rejects(client.query('DROP_REPLICATION_SLOT plain'), isActive);
  await assert.rejects(client.query(`START_REPLICATION SLOT plain 0/1000000`), isActive);

  // DROP waits for it if told to; then it is gone.
  const dropped = client.query('DROP_REPLICATION_SLOT plain WAIT');
  await user.end();
  assert.deepEqual(await dropped, []);
  await client.query('DROP_REPLICATION_SLOT reserved');
  assert.deepEqual((await relay.status()).slots, []);
});

test('a temporary slot goes with its session, and with an error in it', async (t) => {
  const { tree, relay } = await primaryAndRelay(t);
  const observer = await WalClient.connect(tree, relay.conninfo);
  const exists = async (name: string): Promise<boolean> =>
    (await readSlot(observer, relay, name))[0] === 'physical';

  const leaving = await WalClient.connect(tree, relay.conninfo);
  await leaving.query('CREATE_REPLICATION_SLOT leaving TEMPORARY PHYSICAL RESERVE_WAL');
  assert.ok(await exists('leaving'));
  await leaving.end();
  await waitFor(
    'the slot of a session that left to be gone',
    async () => !(await exists('leaving')),
  );

  const erring = await WalClient.connect(tree, relay.conninfo);
  await erring.query('CREATE_REPLICATION_SLOT erring TEMPORARY PHYSICAL RESERVE_WAL');
  await erring.query('CREATE_REPLICATION_SLOT lasting PHYSICAL RESERVE_WAL');
  await assert.rejects(erring.query('TIMELINE_HISTORY 7'), { sqlstate: '58P01' });
  assert.ok(!(await exists('erring')));
  assert.ok(await exists('lasting'));

  // A restart leaves no temporary slot, also by a crash.
  await erring.query('CREATE_REPLICATION_SLOT crashing TEMPORARY PHYSICAL RESERVE_WAL');
  await relay.kill9();
  await relay.start();
  assert.deepEqual(
    (await relay.status()).slots.map(({ name }) => name),
    ['lasting'],
  );
});

test('a slot survives a stop and a crash of the relay, with the WAL it needs', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t, { wal_keep_size: '0' });
  const client = await WalClient.connect(tree, relay.conninfo);
  await client.query('CREATE_REPLICATION_SLOT away PHYSICAL RESERVE_WAL');
  const restart = await restartLsn(relay, 'away');
  for (const end of ['stop', 'crash'] as const) {
    await writeSegments(primary, 6);
    await relay.waitForWal(await primary.currentLsn());
    if (end === 'stop') assert.equal(await relay.stop(), 'exit status 0');
    else await relay.kill9();
    await relay.start();
    assert.equal(await restartLsn(relay, 'away'), restart);
    assert.ok(parseLsn((await relay.status()).positions.oldest) <= restart);
  }

  // Its downstream comes back, gets everything, and what it confirms is remembered by a stop.
  const position = await primary.currentLsn();
  const back = await WalClient.connect(tree, relay.conninfo);
  await back.receive({
    start: segmentStart(restart, SEGMENT_BYTES),
    end: position,
    slot: 'away',
  });
  await waitFor('the slot to follow', async () => (await restartLsn(relay, 'away')) >= position);
  await back.end();
  await relay.stop();
  await relay.start();
  assert.ok((await restartLsn(relay, 'away')) >= position);
});

test('wal_keep_size and slots decide which segments a relay keeps', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t, { wal_keep_size: '3MB' });
  const client = await WalClient.connect(tree, relay.conninfo);
  const first = await oldestOf(relay);
  await writeSegments(primary, 2);
  await primary.sql('CHECKPOINT');
  await relay.waitForWal(await primary.currentLsn());
  await client.query('CREATE_REPLICATION_SLOT holder PHYSICAL RESERVE_WAL');
  const restart = await restartLsn(relay, 'holder');
  assert.ok(segmentStart(restart, SEGMENT_BYTES) > first, 'there is WAL that the slot has not');

  // What is older than the slot and wal_keep_size goes; what the slot needs stays, however old.
  await writeSegments(primary, 12);
  await waitForOldest(relay, primary, (oldest) => oldest === segmentStart(restart, SEGMENT_BYTES));
  await writeSegments(primary, 5);
  await relay.waitForWal(await primary.currentLsn());
  assert.equal((await relay.status()).positions.oldest, await firstSegmentLsn(relay));
  assert.equal(await oldestOf(relay), segmentStart(restart, SEGMENT_BYTES));
  const downstream = await WalClient.connect(tree, relay.conninfo);
  await downstream.receive({
    start: segmentStart(restart, SEGMENT_BYTES),
    end: await primary.currentLsn(),
    slot: 'holder',
  });
  await downstream.end();

  // Without the slot wal_keep_size is left, and the last checkpoint.
  await waitFor('the slot to be free', async () => {
    const [slot] = (await relay.status()).slots;
    return slot?.active === false;
  });
  await client.query('DROP_REPLICATION_SLOT holder');
  await primary.sql('CHECKPOINT');
  await waitForOldest(relay, primary, (oldest, end) => end - oldest <= 6n * BigInt(SEGMENT_BYTES));
  const kept = (await primary.currentLsn()) - (await oldestOf(relay));
  assert.ok(kept >= 3n * BigInt(SEGMENT_BYTES), `wal_keep_size is kept, not ${kept} bytes`);
  await waitFor(
    'pg_wal to hold no older segment',
    async () => (await firstSegmentLsn(relay)) === (await relay.status()).positions.oldest,
  );
});

const isActive = (error: unknown): boolean =>
  error instanceof WalcadeError &&
  error.sqlstate === '55006' &&
  /^replication slot "plain" is active for PID \d+$/.test(error.message);

/** READ_REPLICATION_SLOT's row; up to PostgreSQL 14, which has no such command, by status. */
async function readSlot(
  client: WalClient,
  relay: WalcadeNode,
  name: string,
): Promise<(string | null)[]> {
  if (testedMajor() >= 15) return (await client.query(`READ_REPLICATION_SLOT "${name}"`))[0] ?? [];
  const slot = (await relay.status()).slots.find((each) => each.name === name);
  if (slot === undefined) return [null, null, null];
  return ['physical', slot.restartLsn, slot.restartLsn === null ? null : '1'];
}

async function restartLsn(relay: WalcadeNode, name: string): Promise<Lsn> {
  const slot = (await relay.status()).slots.find((each) => each.name === name);
  return parseLsn(slot?.restartLsn ?? '');
}

async function oldestOf(relay: WalcadeNode): Promise<Lsn> {
  return parseLsn((await relay.status()).positions.oldest);
}

/** The position of the first segment file, as status would show it. */
async function firstSegmentLsn(relay: WalcadeNode): Promise<string> {
  const [first = ''] = await listSegments(relay.directory);
  const [high, low] = [first.slice(8, 16), first.slice(16)].map((part) =>
    Number.parseInt(part, 16),
  );
  return `${(high ?? 0).toString(16)}/${((low ?? 0) * SEGMENT_BYTES).toString(16)}`.toUpperCase();
}

/** Begins a segment, as removal comes with segments, and waits until the oldest WAL is right. */
async function waitForOldest(
  relay: WalcadeNode,
  primary: PostgresCluster,
  isRight: (oldest: Lsn, end: Lsn) => boolean,
): Promise<void> {
  await writeSegments(primary, 1);
  const end = await primary.currentLsn();
  await relay.waitForWal(end);
  await waitFor('old segments to be removed', async () => isRight(await oldestOf(relay), end));
}

/** Begins `count` new segments, each after a little WAL. */
async function writeSegments(primary: PostgresCluster, count: number): Promise<void> {
  for (let segment = 0; segment < count; segment += 1) {
    await primary.sql(`INSERT INTO number VALUES (${segment})`);
    await primary.sql('SELECT pg_switch_wal()');
  }
}

/** A primary with segments of 1 MB, and a relay that has all it has. */
async function primaryAndRelay(
  t: TestContext,
  settings: Record<string, string> = {},
): Promise<{ tree: TestDirectory; primary: PostgresCluster; relay: WalcadeNode }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary', segmentMegabytes: 1 });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    settings,
  });
  await relay.start();
  await relay.waitForWal(await primary.currentLsn());
  return { tree, primary, relay };
}
