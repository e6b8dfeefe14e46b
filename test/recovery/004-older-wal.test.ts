/**
 * WAL from before a relay's store begins: passed on from its upstream, or refused in PostgreSQL's
 * words when that has removed it too.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Lsn, advance, formatLsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { SEGMENT_BYTES_DEFAULT, segmentName, segmentStart } from '../../src/wal/segment.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalClient } from '../harness/wal-client.ts';
import { digestStored, listSegments } from '../harness/wal-files.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const segmentBytes = SEGMENT_BYTES_DEFAULT;
const timeline = timelineId(1);

test("a standby of a backup older than its relays' stores starts in one stream", async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  const start = await backupStart(backup);
  await writeSegments(primary, 3);
  const relay = await relayFromNow(tree, primary, 'relay', primary.conninfo);
  await writeSegments(primary, 1);
  await relay.waitForWal(await primary.currentLsn());
  const lower = await relayFromNow(tree, primary, 'lower', relay.conninfo);

  for (const [name, node] of [
    ['standby1', relay],
    ['standby2', lower],
  ] as const) {
    const { oldest } = (await node.status()).positions;
    assert.ok(parseLsn(oldest) > start, `${oldest} is after ${formatLsn(start)}`);
    const standby = await PostgresCluster.standby(tree, {
      name,
      from: backup,
      upstreamConninfo: node.conninfo,
    });
    await standby.start();
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());

    // It began where its backup begins, and has never had to begin again.
    const log = await standby.log.text();
    const starts = log.match(/started streaming WAL.*/g);
    assert.deepEqual(starts, [
      `started streaming WAL from primary at ${formatLsn(start)} on timeline 1`,
    ]);
    assert.doesNotMatch(log, /incorrect|invalid|FATAL|ERROR/);
  }

  // The bytes over the joint are the primary's, from wherever one asks.
  const end = await primary.currentLsn();
  await lower.waitForWal(end);
  for (const node of [relay, lower]) {
    const oldest = parseLsn((await node.status()).positions.oldest);
    for (const from of [start, segmentStart((oldest - 1n) as Lsn, segmentBytes), oldest]) {
      const client = await WalClient.connect(tree, node.conninfo);
      assert.equal(
        await client.receive({ start: from, end }),
        await digestStored(primary.dataDirectory, { timeline, start: from, end, segmentBytes }),
      );
      await client.end();
    }
  }
});

test('WAL that is gone everywhere is refused with 58P01 and its text', async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  await primary.configure({ wal_keep_size: 0 });
  await primary.restart();
  const start = await backupStart(backup);
  await writeSegments(primary, 1);
  const relay = await relayFromNow(tree, primary, 'relay', primary.conninfo);
  const lower = await relayFromNow(tree, primary, 'lower', relay.conninfo);

  // The primary removes what nobody holds: the relays have begun later.
  const gone = segmentName(timeline, start, segmentBytes);
  await waitFor('the primary to remove old WAL', async () => {
    await writeSegments(primary, 1);
    await relay.waitForWal(await primary.currentLsn());
    await primary.sql('CHECKPOINT');
    return !(await listSegments(primary.dataDirectory)).includes(gone);
  });
  const refusal = {
    sqlstate: '58P01',
    message: `requested WAL segment ${gone} has already been removed`,
  };
  for (const node of [relay, lower]) {
    const client = await WalClient.connect(tree, node.conninfo);
    const range = { start, end: advance(start, segmentBytes) };
    await assert.rejects(client.receive(range), refusal);

    // The session lives, and can stream what there is.
    const [[, , position] = []] = await client.query('IDENTIFY_SYSTEM');
    const oldest = parseLsn((await node.status()).positions.oldest);
    const served = parseLsn(position ?? '');
    const there = { start: oldest, end: served };
    assert.equal(
      await client.receive(there),
      await digestStored(node.directory, { ...there, timeline, segmentBytes }),
    );
    await client.end();
  }

  // A standby that needs it says so as it would below PostgreSQL.
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: lower.conninfo,
  });
  await standby.start({ wait: false });
  await standby.log.waitFor(
    new RegExp(`could not receive data from WAL stream: ERROR:  requested WAL segment ${gone} has`),
  );
});

test('a relay whose next WAL is gone upstream says so once, and keeps trying', async (t) => {
  const { tree, primary } = await primaryWithBackup(t);
  await primary.configure({ wal_keep_size: 0 });
  await primary.restart();
  const relay = await relayFromNow(tree, primary, 'relay', primary.conninfo);
  await relay.stop();
  const next = segmentName(timeline, await primary.currentLsn(), segmentBytes);
  await waitFor('the primary to remove what the relay needs', async () => {
    await writeSegments(primary, 1);
    await primary.sql('CHECKPOINT');
    return !(await listSegments(primary.dataDirectory)).includes(next);
  });

  // START_REPLICATION is answered by CopyBoth before the refusal: that alone is no success.
  relay.expectLog(new RegExp(`ERROR: .*requested WAL segment ${next} has already been removed`));
  await relay.configure({ wal_retrieve_retry_interval: '50ms' });
  const mark = await relay.log.mark();
  await relay.start();
  await waitFor('several attempts', async () => {
    const attempts = (await relay.log.since(mark)).match(/started streaming WAL/g) ?? [];
    return attempts.length >= 5;
  });
  assert.equal((await relay.log.since(mark)).match(/ERROR: /g)?.length, 1);
  await waitFor('status to give the reason', async () =>
    (await relay.status()).upstream.reason?.endsWith(`${next} has already been removed`),
  );
});

/** The start of the segment that a standby of this backup asks for first. */
async function backupStart(backup: string): Promise<Lsn> {
  const label = await readFile(join(backup, 'backup_label'), 'utf8');
  const [, position = ''] = /^START WAL LOCATION: (\S+) /.exec(label) ?? [];
  return segmentStart(parseLsn(position), segmentBytes);
}

/** A relay whose store begins with the primary's present segment, and reserves nothing. */
async function relayFromNow(
  tree: TestDirectory,
  primary: PostgresCluster,
  name: string,
  upstream: string,
): Promise<WalcadeNode> {
  const now = await primary.sql('SELECT pg_current_wal_flush_lsn()');
  const args = ['--no-slot', '--start-lsn', now];
  const relay = await WalcadeNode.init(tree, { name, upstream, args });
  await relay.start();
  await relay.waitForWal(parseLsn(now));
  return relay;
}

/** Begins `count` new segments, each after some WAL. */
async function writeSegments(primary: PostgresCluster, count: number): Promise<void> {
  for (let segment = 0; segment < count; segment += 1) {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 20000)');
    await primary.sql('SELECT pg_switch_wal()');
  }
  await primary.sql('INSERT INTO number VALUES (1)');
}

/** A running primary with a table `number`, and a base backup of it. */
async function primaryWithBackup(
  t: TestContext,
): Promise<{ tree: TestDirectory; primary: PostgresCluster; backup: string }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  return { tree, primary, backup: await primary.backup(join(tree.path, 'backup')) };
}
