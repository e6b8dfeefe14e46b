/**
 * Failing over to a standby behind the relay: the relay is not led astray. It ends where the
 * timeline ends that it follows, says so, and what it has is what the old primary had.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Lsn, formatLsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { parseSegmentName } from '../../src/wal/segment.ts';
import {
  type RelayedCluster,
  SEGMENT_BYTES,
  largeMessage,
  relayedCluster,
} from '../harness/relayed-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { digestStored, listSegments } from '../harness/wal-files.ts';

test('after a failover a relay waits where its timeline has ended, and says so', async (t) => {
  const cluster = await relayedCluster(t);
  const { primary, standby } = cluster;
  await followBoth(cluster);
  await primary.sql(`INSERT INTO load (payload) VALUES ('the last row of the old primary')`);
  await standby.waitForCatchup(primary);
  await primary.kill9();
  await assertWaits(cluster, await failOver(cluster));
});

test('so does a relay that has received a part of a record which nobody finished', async (t) => {
  const cluster = await relayedCluster(t);
  const { primary, relay } = cluster;
  await followBoth(cluster);
  const load = writeLargeRecords();
  const { received, proven } = await waitFor('an unfinished record on the relay', async () => {
    const { positions } = await relay.status();
    const unfinished = parseLsn(positions.received) - parseLsn(positions.proven);
    return unfinished > 100_000n ? positions : undefined;
  });
  t.diagnostic(`received ${received}, proven ${proven}`);
  await primary.kill9();
  await load;
  const switchPoint = await failOver(cluster);
  await assertWaits(cluster, switchPoint);

  // A restart finds itself in the same place.
  await relay.restart();
  await assertWaits(cluster, switchPoint);

  async function writeLargeRecords(): Promise<void> {
    try {
      for (;;) await primary.sql(largeMessage(6_000_000));
    } catch {
      // The primary is gone: that is what the test is about.
    }
  }
});

/** The relay may connect to the primary, else to the standby, and has a slot on both. */
async function followBoth({ primary, relay, standby }: RelayedCluster): Promise<void> {
  await standby.sql(`SELECT pg_create_physical_replication_slot('relay')`);
  const ports = `${primary.port},${standby.port}`;
  const conninfo = `host=127.0.0.1,127.0.0.1 port=${ports} user=postgres`;
  await relay.configure({ primary_conninfo: conninfo });
  relay.reload();
  await relay.waitForLog(
    /configuration files were read again|parameter "primary_conninfo" changed/,
  );
}

/**
 * Promotes the standby, whose primary is gone, once it has all that the relay had to give; gives
 * where its new timeline begins.
 */
async function failOver({ relay, standby }: RelayedCluster): Promise<Lsn> {
  await standby.waitForReplay(parseLsn((await relay.status()).positions.proven));
  await standby.promote();
  await standby.sql(`INSERT INTO load (payload) VALUES ('the first row of the new primary')`);
  const path = join(standby.dataDirectory, 'pg_wal', '00000002.history');
  const [, switchPoint = ''] = (await readFile(path, 'utf8')).trim().split('\t');
  return parseLsn(switchPoint);
}

async function assertWaits(cluster: RelayedCluster, switchPoint: Lsn): Promise<void> {
  const { primary, relay, standby } = cluster;
  const reason = `timeline 1 has ended at ${formatLsn(switchPoint)}, timeline 2 follows it`;
  const mark = await relay.log.mark();
  await waitFor(`the relay to be waiting since ${reason}`, async () => {
    const { upstream } = await relay.status();
    return upstream.state === 'waiting' && upstream.reason === reason;
  });
  await relay.waitForLog(new RegExp(`waiting: ${reason}`));

  // It has the history that comes next, and on its own timeline what the old primary had.
  const history = await readFile(join(relay.directory, 'pg_wal', '00000002.history'));
  const theirs = await readFile(join(standby.dataDirectory, 'pg_wal', '00000002.history'));
  assert.deepEqual(history, theirs);
  const { timeline, positions } = await relay.status();
  assert.equal(timeline, 1);
  assert.equal(positions.proven, formatLsn(switchPoint));
  assert.equal(positions.served, formatLsn(switchPoint));
  const verified = await relay.cli(['wal', 'verify', relay.directory]);
  assert.equal(verified.code, 0, verified.stdout);
  const starts = await Promise.all([primary.dataDirectory, relay.directory].map(oldestOf));
  const start = starts.reduce((a, b) => (a > b ? a : b));
  const range = { timeline: timelineId(1), start, end: switchPoint, segmentBytes: SEGMENT_BYTES };
  assert.equal(
    await digestStored(relay.directory, range),
    await digestStored(primary.dataDirectory, range),
  );

  // Nobody is troubled: it says once that it waits, and nothing else.
  const text = await relay.log.since(mark);
  assert.doesNotMatch(text, /ERROR|WARNING/);
}

async function oldestOf(directory: string): Promise<Lsn> {
  return parseSegmentName((await listSegments(directory))[0] ?? '', SEGMENT_BYTES).start;
}
