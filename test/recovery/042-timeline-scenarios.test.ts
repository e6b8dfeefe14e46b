/**
 * PostgreSQL's own scenarios of timelines, with relays in the middle: whoever is promoted above,
 * and whatever was left unfinished there, the servers below go on with the connections they have.
 */
import assert from 'node:assert/strict';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'node:test';
import {
  INVALID_LSN,
  type Lsn,
  advance,
  distance,
  parseLsn,
  timelineId,
} from '../../src/wal/lsn.ts';
import { segmentName, segmentStart } from '../../src/wal/segment.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { receiveWithTool } from '../harness/pg-receivewal.ts';
import type { PostgresCluster } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { largeMessage } from '../harness/relayed-cluster.ts';
import { TimelineTree, begin, insertRows, sessionsOf } from '../harness/timeline-tree.ts';
import { waitFor } from '../harness/wait.ts';
import { listSegments } from '../harness/wal-files.ts';
import type { WalcadeNode } from '../harness/walcade-node.ts';

const RECORD_BYTES = 30_000_000;
const NETWORK_BYTES_PER_SECOND = 6_000_000;
const STANDSTILL_MS = 300;
const UNFINISHED_BYTES_MIN = 2_000_000;

for (const depth of [1, 2, 5]) {
  test(`a switch passes a chain of ${depth}, in which nobody connects anew`, async (t) => {
    const tree = await TimelineTree.create(t);
    const { primary } = tree;
    const middle = await tree.standby('middle', primary);
    const relays: WalcadeNode[] = [];
    for (let number = 1; number <= depth; number++) {
      relays.push(await tree.relay(`relay${number}`, relays.at(-1) ?? middle));
    }
    const last = relays.at(-1) as WalcadeNode;
    const below = await tree.standby('below', last);
    await insertRows(primary, 'of timeline 1', 20_000);
    await below.waitForCatchup(primary);
    const chain = [...relays, below];
    const sessions = await sessionsOf(chain);
    const sender = await middle.sql('SELECT pid FROM pg_stat_replication');

    await primary.stop();
    await middle.promote();
    await insertRows(middle, 'of timeline 2', 20_000);
    await below.waitForCatchup(middle);
    assert.equal(await below.dump(), await middle.dump());
    for (const relay of relays) await tree.assertFollows(relay, middle, 2);
    assert.deepEqual(await sessionsOf(chain), sessions);
    assert.equal(await middle.sql('SELECT pid FROM pg_stat_replication'), sender);
  });
}

test('several switches in one segment are followed live, and all at once afterwards', async (t) => {
  const tree = await TimelineTree.create(t, { segmentMegabytes: 16 });
  const { primary } = tree;
  const first = await tree.standby('first', primary);
  const second = await tree.standby('second', first);
  const third = await tree.standby('third', second);
  const live = await tree.relay('live', third);
  const late = await tree.relay('late', third);
  const lower = await tree.relay('lower', late);
  const belowLive = await tree.standby('below_live', live);
  const belowLower = await tree.standby('below_lower', lower);
  for (const standby of [third, belowLive, belowLower]) await standby.waitForCatchup(primary);
  const sessions = await sessionsOf([live, belowLive]);
  const lowerSessions = await sessionsOf([lower, belowLower]);
  await late.stop();

  let leader: PostgresCluster = primary;
  for (const [index, next] of [first, second, third].entries()) {
    await insertRows(leader, `the last of timeline ${index + 1}`, 3);
    await next.waitForCatchup(leader);
    await leader.stop();
    await next.promote();
    await insertRows(next, `the first of timeline ${index + 2}`, 3);
    leader = next;
  }
  await belowLive.waitForCatchup(third);
  assert.equal(await belowLive.dump(), await third.dump());
  assert.deepEqual(await sessionsOf([live, belowLive]), sessions);
  await tree.assertFollows(live, third, 4);
  const ends = await Promise.all([2, 3, 4].map((number) => begin(third, number)));
  const segments = new Set(ends.map((end) => segmentStart(end, tree.segmentBytes)));
  assert.equal(segments.size, 1, 'all switches are in one segment');

  // Who was away comes over all of them at once, and leads on who has stayed with a node below.
  await late.start();
  await belowLower.waitForCatchup(third);
  assert.equal(await belowLower.dump(), await third.dump());
  for (const relay of [late, lower]) await tree.assertFollows(relay, third, 4);
  assert.deepEqual(await sessionsOf([lower, belowLower]), lowerSessions);

  // Everybody has the histories, byte for byte, and the segment in each name that it had.
  for (const relay of [live, late, lower]) {
    for (const name of ['00000002.history', '00000003.history', '00000004.history']) {
      const path = join('pg_wal', name);
      const theirs = await readFile(join(third.dataDirectory, path));
      assert.deepEqual(await readFile(join(relay.directory, path)), theirs);
    }
    const switched = (await listSegments(relay.directory)).filter(
      (name) => !name.startsWith('00000001'),
    );
    assert.deepEqual(
      switched.map((name) => name.slice(0, 8)),
      ['00000002', '00000003', '00000004'],
    );
  }
});

test('megabytes of a record that nobody finished are left behind by a promotion', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const middle = await tree.standby('middle', await slowly(tree));
  const relay = await tree.relay('relay', middle);
  const lower = await tree.relay('lower', relay);
  const below = await tree.standby('below', lower);
  await below.waitForCatchup(primary);
  const sessions = await sessionsOf([relay, lower, below]);
  const received = await killInsideRecord(primary, relay);
  await middle.promote();
  const discarded = distance(await begin(middle, 2), received);
  assert.ok(discarded > UNFINISHED_BYTES_MIN, `${discarded} bytes were discarded`);
  await insertRows(middle, 'of timeline 2', 10_000);
  await below.waitForCatchup(middle);
  assert.equal(await below.dump(), await middle.dump());
  for (const node of [relay, lower]) await tree.assertFollows(node, middle, 2);
  assert.deepEqual(await sessionsOf([relay, lower, below]), sessions);
});

test('a record that a crash broke off is skipped on the same timeline', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const relay = await tree.relay('relay', await slowly(tree));
  const lower = await tree.relay('lower', relay);
  const below = await tree.standby('below', lower);
  await below.waitForCatchup(primary);
  const sessions = await sessionsOf([lower, below]);
  const received = await killInsideRecord(primary, relay);

  // What the primary had not flushed is lost.
  const lost = segmentStart(advance(received, tree.segmentBytes - 1), tree.segmentBytes);
  const firstLost = segmentName(timelineId(1), lost, tree.segmentBytes);
  for (const name of await listSegments(primary.dataDirectory)) {
    if (name >= firstLost) await rm(join(primary.dataDirectory, 'pg_wal', name));
  }
  await primary.start();
  await insertRows(primary, 'after the crash', 10_000);
  await below.waitForCatchup(primary);
  assert.match(await below.log.text(), /successfully skipped missing contrecord/);
  assert.equal(await below.dump(), await primary.dump());
  for (const node of [relay, lower]) await node.waitForWal(await primary.currentLsn());
  assert.deepEqual(await sessionsOf([lower, below]), sessions);
  const verified = await relay.cli(['wal', 'verify', relay.directory]);
  assert.equal(verified.code, 0, verified.stdout);
});

test('a new upstream gives first what the old one still had to give', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const next = await tree.standby('next', primary);
  const relay = await tree.relay('relay', primary);
  const below = await tree.standby('below', relay);
  await below.waitForCatchup(primary);
  const { received } = (await relay.status()).positions;
  await relay.configure({ primary_conninfo: next.conninfo });
  await relay.stop();
  await insertRows(primary, 'of timeline 1, with the relay away', 30_000);
  await next.waitForCatchup(primary);
  await primary.stop();
  await next.promote();
  await insertRows(next, 'of timeline 2', 1000);
  const missing = distance(parseLsn(received), await begin(next, 2));
  assert.ok(missing > 1_000_000, `${missing} bytes of timeline 1 were missing`);
  await relay.start();
  await below.waitForCatchup(next);
  assert.equal(await below.dump(), await next.dump());
  await tree.assertFollows(relay, next, 2);
  await relay.waitForLog(/timeline 1 has ended: going on with timeline 2/);
});

test('a standby that is ahead of its relay waits there, and goes on', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const relay = await tree.relay('relay', primary);
  const archive = join(primary.dataDirectory, 'pg_wal');
  const below = await tree.standby('below', relay, { restore_command: `cp ${archive}/%f %p` });
  await below.waitForCatchup(primary);
  await below.stop();
  await relay.stop();
  await insertRows(primary, 'that the relay has not got', 30_000);
  await primary.sql('SELECT pg_switch_wal()');
  await insertRows(primary, 'that only the archive has', 10);

  // Its upstream is away, and the standby has more from the archive than the relay can give.
  await relay.configure({ primary_conninfo: `host=127.0.0.1 port=1 user=postgres` });
  await relay.start();
  await below.start();
  await below.waitForCatchup(primary);
  const { served } = (await relay.status()).positions;
  const ahead = distance(parseLsn(served), await below.replayLsn());
  assert.ok(ahead > 1_000_000, `the standby is ${ahead} bytes ahead`);
  const receiver = await waitFor('a WAL receiver', () => below.walReceiverPid());
  const sessions = await waitFor('its session', async () => {
    const list = (await relay.status()).downstreams;
    return list.length > 0 ? list : undefined;
  });
  assert.equal(sessions[0]?.applicationName, 'below');

  await relay.configure({ primary_conninfo: primary.conninfo });
  relay.reload();
  await relay.waitForWal(await primary.currentLsn());
  await insertRows(primary, 'when all is well again', 1000);
  await below.waitForCatchup(primary);
  assert.equal(await below.dump(), await primary.dump());
  assert.equal(await below.walReceiverPid(), receiver);
});

test('a relay that is killed around each of many switches has the same at the end', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const line = [primary];
  for (const name of ['first', 'second', 'third', 'fourth']) {
    line.push(await tree.standby(name, line.at(-1) as PostgresCluster));
  }
  const last = line.at(-1) as PostgresCluster;
  const relay = await tree.relay('relay', last);
  const lower = await tree.relay('lower', relay);
  const below = await tree.standby('below', lower);
  await below.waitForCatchup(primary);
  const sessions = await sessionsOf([lower, below]);
  for (const [index, leader] of line.slice(0, -1).entries()) {
    const next = line[index + 1] as PostgresCluster;
    await insertRows(leader, `the last of timeline ${index + 1}`, 500);
    await last.waitForCatchup(leader);
    await leader.stop();
    const kill = async (delayMs: number): Promise<void> => {
      await sleep(delayMs);
      await relay.kill9();
      await relay.start();
    };
    const promoted = next.promote();
    const afterMs = Math.round(Math.random() * 250);
    t.diagnostic(`killed ${afterMs} ms after the promotion of ${next.name} began`);
    await kill(afterMs);
    await promoted;
    await insertRows(next, `the first of timeline ${index + 2}`, 500);
    await kill(0);
  }
  await insertRows(last, 'of the last timeline', 500);
  await below.waitForCatchup(last);
  assert.equal(await below.dump(), await last.dump());
  for (const node of [relay, lower]) await tree.assertFollows(node, last, 5);
  assert.deepEqual(await sessionsOf([lower, below]), sessions);
});

test('pg_receivewal is led over a switch by a relay', async (t) => {
  const tools = await findTools(['pg_receivewal']);
  if (tools === undefined) return t.diagnostic('this machine has no pg_receivewal');
  const tree = await TimelineTree.create(t, { binaries: tools.binaries });
  const { primary } = tree;
  const middle = await tree.standby('middle', primary);
  const relay = await tree.relay('relay', middle);
  await insertRows(primary, 'of timeline 1', 20_000);
  await middle.waitForCatchup(primary);
  const options = { conninfo: relay.conninfo, name: 'receiver' };
  const receiver = (await receiveWithTool(tree.directory, tools, options)) ?? assert.fail();
  const [session] = await waitFor('its session', async () => {
    const { downstreams } = await relay.status();
    return downstreams[0]?.state === 'streaming' ? downstreams : undefined;
  });
  await primary.stop();
  await middle.promote();
  await insertRows(middle, 'of timeline 2', 20_000);
  await middle.sql('SELECT pg_switch_wal()');
  await insertRows(middle, 'of timeline 2, in another segment');
  await tree.assertFollows(relay, middle, 2);
  const complete = (await listSegments(relay.directory)).filter((name) =>
    name.startsWith('00000002'),
  );
  const newest = complete.slice(0, -1).at(-1) ?? assert.fail('a segment of timeline 2 is complete');
  await waitFor(`it to have ${newest}`, async () => (await receiver.segments()).includes(newest));
  for (const name of await receiver.segments()) {
    const kept = await receiver.read(name);
    assert.ok(kept.equals(await receiver.readFrom(relay.directory, name)), name);
  }
  assert.equal((await relay.status()).downstreams[0]?.pid, session?.pid);
});

/** Lets the tree grow below a network that makes a large record take some time. */
async function slowly({ directory, primary }: TimelineTree): Promise<FaultyNetwork> {
  return FaultyNetwork.between(directory, primary.port, {
    bytesPerSecond: NETWORK_BYTES_PER_SECOND,
  });
}

/**
 * Kills the primary while a large record of it is on its way to the relay; gives how far the relay
 * has come when all that was sent has arrived.
 */
async function killInsideRecord(primary: PostgresCluster, relay: WalcadeNode): Promise<Lsn> {
  const large = primary.sql(largeMessage(RECORD_BYTES)).catch(() => {});
  await waitFor('a good part of the record on the relay', async () => {
    const { received, proven } = (await relay.status()).positions;
    return distance(parseLsn(proven), parseLsn(received)) > UNFINISHED_BYTES_MIN;
  });
  await primary.kill9();
  await large;
  let seen = INVALID_LSN;
  return waitFor('the relay to stand still', async () => {
    const before = seen;
    seen = parseLsn((await relay.status()).positions.received);
    await sleep(STANDSTILL_MS);
    return before === seen ? seen : undefined;
  });
}
