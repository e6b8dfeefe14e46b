/**
 * Failing over to a standby behind the relay: the relay goes on with the new timeline, and leads
 * who streams from it over the switch point on its open connection.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Lsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { segmentStart } from '../../src/wal/segment.ts';
import { numberCluster } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import {
  type RelayedCluster,
  SEGMENT_BYTES,
  largeMessage,
  relayedCluster,
} from '../harness/relayed-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';
import { digestStored } from '../harness/wal-files.ts';

test('after a failover a relay goes on with the new timeline, and leads its standby', async (t) => {
  const cluster = await clusterWithSecond(t);
  const { primary, standby } = cluster;
  await followBoth(cluster);
  await primary.sql(`INSERT INTO load (payload) VALUES ('the last row of the old primary')`);
  await standby.waitForCatchup(primary);
  await primary.kill9();
  await assertFollows(cluster, await failOver(cluster));
  assert.equal(await cluster.second.walReceiverPid(), cluster.receiver);
});

test('so does a relay that has received a part of a record which nobody finished', async (t) => {
  const cluster = await clusterWithSecond(t);
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
  await assertFollows(cluster, switchPoint);
  assert.equal(await cluster.second.walReceiverPid(), cluster.receiver);

  // A restart finds itself in the same place.
  await relay.restart();
  await assertFollows(cluster, switchPoint);

  async function writeLargeRecords(): Promise<void> {
    try {
      for (;;) await primary.sql(largeMessage(6_000_000));
    } catch {
      // The primary is gone: that is what the test is about.
    }
  }
});

test('a relay made after a failover leads a standby of the old timeline at once', async (t) => {
  // It had to be restarted first: it knew the history of its timeline from its last start only.
  const { tree, primary } = await numberCluster(t);
  const backup = await primary.backup(join(tree.path, 'backup'));
  const options = { from: backup, upstreamConninfo: primary.conninfo };
  const second = await PostgresCluster.standby(tree, { name: 'second', ...options });
  const late = await PostgresCluster.standby(tree, { name: 'late', ...options });
  for (const server of [second, late]) await server.start();
  await primary.sql('INSERT INTO number VALUES (1)');
  for (const server of [second, late]) await server.waitForCatchup(primary);
  await late.stop();
  await primary.sql('INSERT INTO number VALUES (2)');
  await second.waitForCatchup(primary);
  await primary.kill9();
  await second.promote();
  await second.sql('INSERT INTO number VALUES (3)');

  // Its store begins on timeline 2, in the segment where that left timeline 1.
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: second.conninfo });
  await relay.start();
  await relay.waitForWal(await second.currentLsn());
  await late.configure({ primary_conninfo: `${relay.conninfo} application_name=late` });
  await late.start();
  await late.waitForCatchup(second);
  assert.equal(await late.dump(), await second.dump());

  // It goes on with the next timeline too, of an upstream that it has never seen before.
  const third = await PostgresCluster.standby(tree, {
    name: 'third',
    from: await second.backup(join(tree.path, 'second-backup')),
    upstreamConninfo: second.conninfo,
  });
  await third.start();
  await third.waitForCatchup(second);
  await second.stop();
  await third.promote();
  await relay.configure({ primary_conninfo: third.conninfo, primary_slot_name: '' });
  relay.reload();
  await third.sql('INSERT INTO number VALUES (4)');
  await late.waitForCatchup(third);
  assert.equal(await late.dump(), await third.dump());
});

interface Failover extends RelayedCluster {
  /** Behind the relay; the other one is promoted. */
  second: PostgresCluster;
  /** Of its WAL receiver, which must never be another one. */
  receiver: number;
}

async function clusterWithSecond(t: TestContext): Promise<Failover> {
  const cluster = await relayedCluster(t);
  const { tree, primary, relay } = cluster;
  const second = await PostgresCluster.standby(tree, {
    name: 'second',
    from: await primary.backup(join(tree.path, 'second-backup')),
    upstreamConninfo: relay.conninfo,
  });
  await second.start();
  await second.waitForCatchup(primary);
  const receiver = await waitFor('the WAL receiver of second', () => second.walReceiverPid());
  return { ...cluster, second, receiver };
}

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

async function assertFollows(cluster: Failover, switchPoint: Lsn): Promise<void> {
  const { relay, standby, second } = cluster;
  await standby.sql(`INSERT INTO load (payload) VALUES ('a row of timeline 2')`);
  await second.waitForCatchup(standby);
  assert.equal(await second.dump(), await standby.dump());
  assert.equal(await second.sql('SELECT received_tli FROM pg_stat_wal_receiver'), '2');

  // It has the history, and byte for byte what the new primary has.
  const history = await readFile(join(relay.directory, 'pg_wal', '00000002.history'));
  const theirs = await readFile(join(standby.dataDirectory, 'pg_wal', '00000002.history'));
  assert.deepEqual(history, theirs);
  const { timeline, positions, upstream } = await relay.status();
  assert.equal(timeline, 2);
  assert.equal(upstream.state, 'streaming');
  const start = segmentStart(switchPoint, SEGMENT_BYTES);
  const end = parseLsn(positions.served);
  const range = { timeline: timelineId(2), start, end, segmentBytes: SEGMENT_BYTES };
  assert.equal(
    await digestStored(relay.directory, range),
    await digestStored(standby.dataDirectory, range),
  );
}
