/**
 * Histories that fork below what a relay has: it follows its upstream to the new branch, keeps the
 * old one on disk, and tells who cannot follow. Two histories that took one timeline number, or
 * gave one position two contents, are never joined, and nothing is overwritten.
 */
import assert from 'node:assert/strict';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Lsn, formatLsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { segmentStart } from '../../src/wal/segment.ts';
import { copyDirectory } from '../harness/file-backup.ts';
import { postgresUser } from '../harness/postgres-binaries.ts';
import type { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TimelineTree, begin, insertRows } from '../harness/timeline-tree.ts';
import { waitFor } from '../harness/wait.ts';
import { digestStored } from '../harness/wal-files.ts';
import type { WalcadeNode } from '../harness/walcade-node.ts';

for (const target of ['1', 'latest']) {
  test(`a recovery to an older point, towards timeline ${target}, is followed`, async (t) => {
    const tree = await TimelineTree.create(t);
    const { primary } = tree;
    const middle = await tree.standby('middle', primary);
    const relay = await tree.relay('relay', middle);
    const below = await tree.standby('below', relay);
    const early = await tree.standby('early', relay);
    await insertRows(primary, 'that stays', 5000);
    const fork = await primary.currentLsn();
    await early.waitForReplay(fork);
    await early.stop();
    await insertRows(primary, 'that is undone, of timeline 1', 5000);
    await middle.waitForCatchup(primary);
    await primary.stop();
    await middle.promote();
    await insertRows(middle, 'that is undone, of timeline 2', 5000);
    await below.waitForCatchup(middle);
    await tree.assertFollows(relay, middle, 2);
    const left = await branchOf(tree, relay, 2);

    // Recovery ends where all was well, on the third timeline of this cluster.
    const archive = join(middle.dataDirectory, 'pg_wal');
    const restored = await tree.restored('restored', middle, {
      primary_conninfo: '',
      restore_command: `cp ${archive}/%f %p`,
      recovery_target_lsn: formatLsn(fork),
      recovery_target_timeline: target,
      recovery_target_action: 'promote',
    });
    await restored.start();
    await restored.waitForSql('SELECT pg_is_in_recovery()', 'f');
    await insertRows(restored, 'of timeline 3', 5000);
    relay.expectLog(/WARNING: .* the upstream's history forked off timeline 2 before/);
    relay.expectLog(/WARNING: .* standby "below" has WAL that is not in this server's history/);
    await point(relay, restored);
    await tree.assertFollows(relay, restored, 3);
    await relay.waitForLog(/forked off timeline 2 before .*: going on with timeline 3/);

    // Who has not replayed what was undone goes on; who has is refused, again and again.
    await early.start();
    await early.waitForCatchup(restored);
    assert.equal(await early.dump(), await restored.dump());
    const told = /new timeline 3 (?:forked off|is not a child)|is not in this server's history/;
    await below.log.waitFor(told);
    const mark = await below.log.mark();
    await below.log.waitFor(told, { since: mark });
    const diverged = await waitFor(
      'the status to name it',
      async () => (await relay.status()).diverged[0],
    );
    assert.equal(diverged.applicationName, 'below');
    await insertRows(restored, 'when one standby is lost', 1000);
    await early.waitForCatchup(restored);
    await tree.assertFollows(relay, restored, 3);

    // Both branches are on disk.
    assert.equal((await branchOf(tree, relay, 2, left.end)).digest, left.digest);
    assert.equal(await early.dump(), await restored.dump());
  });
}

test('two standbys that took one timeline number at two points are never mixed', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const followed = await tree.standby('followed', primary);
  const other = await tree.standby('other', primary);
  const relay = await tree.relay('relay', followed);
  await insertRows(primary, 'that both have', 100);
  await other.waitForCatchup(primary);
  await other.stop();
  await insertRows(primary, 'that one has', 100);
  await followed.waitForCatchup(primary);
  await primary.stop();
  await followed.promote();
  await other.start();
  await other.promote();
  await insertRows(followed, 'of one timeline 2', 100);
  await insertRows(other, 'of the other timeline 2', 10_000);
  await tree.assertFollows(relay, followed, 2);

  const parting = await begin(other, 2);
  relay.expectLog(/ERROR: .*00000002\.history|ERROR: .*timeline 2/);
  await assertRefused(tree, relay, {
    other,
    followed,
    reason: new RegExp(`part.* at ${formatLsn(parting)}`),
  });
});

test('two standbys promoted at one point are told apart by their WAL', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const followed = await tree.standby('followed', primary);
  const other = await tree.standby('other', primary);
  const relay = await tree.relay('relay', followed);
  for (const standby of [followed, other]) await standby.waitForCatchup(primary);
  await primary.stop();
  await waitFor('both to have the same', async () => {
    const [a, b] = await Promise.all([followed.replayLsn(), other.replayLsn()]);
    return a === b;
  });
  await followed.promote();
  await other.promote();
  assert.equal(await begin(followed, 2), await begin(other, 2));
  await insertRows(followed, 'of one timeline 2', 100);
  await insertRows(other, 'of the other timeline 2', 10_000);
  await tree.assertFollows(relay, followed, 2);

  relay.expectLog(/ERROR: .*WAL of the upstream differs from this node's at/);
  await assertRefused(tree, relay, { other, followed, reason: /differs from this node's at/ });
});

test('an upstream that was restored from a snapshot is never taken for itself', async (t) => {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const relay = await tree.relay('relay', primary);
  const below = await tree.standby('below', relay);
  await insertRows(primary, 'that stays', 100);
  await primary.stop();
  const user = await postgresUser();
  const snapshot = join(tree.directory.path, 'snapshot');
  await copyDirectory(primary.dataDirectory, await tree.directory.makeDirectory('snapshot'), user);
  await primary.start();
  await insertRows(primary, 'that is undone', 5000);
  await below.waitForCatchup(primary);
  const end = parseLsn(await primary.sql('SELECT pg_current_wal_flush_lsn()'));
  await relay.waitForWal(end);
  const before = await branchOf(tree, relay, 1);
  const dump = await below.dump();

  // It is behind: the relay waits.
  await primary.kill9();
  await rm(primary.dataDirectory, { recursive: true });
  await copyDirectory(snapshot, await tree.directory.makeDirectory('primary'), user);
  const mark = await relay.log.mark();
  await primary.start();
  await relay.waitForLog(/waiting: upstream is at .* behind this node at/, { since: mark });
  assert.equal((await relay.status()).upstream.state, 'waiting');

  // It has come as far with other WAL: the relay refuses.
  relay.expectLog(/ERROR: .*WAL of the upstream differs from this node's at/);
  await insertRows(primary, 'that is other WAL', 40_000);
  await relay.waitForLog(/differs from this node's at/, { since: mark });
  assert.notEqual((await relay.status()).upstream.state, 'streaming');
  assert.equal((await branchOf(tree, relay, 1)).digest, before.digest);
  assert.equal((await branchOf(tree, relay, 1)).end, before.end);
  assert.equal(await below.dump(), dump);
});

/** What the relay has of a timeline from the segment of its begin to `end`, or to where it is. */
async function branchOf(
  tree: TimelineTree,
  relay: WalcadeNode,
  timeline: number,
  to?: Lsn,
): Promise<{ digest: string; end: Lsn }> {
  const { positions } = await relay.status();
  const end = to ?? parseLsn(positions.flushed);
  const start = segmentStart(end, tree.segmentBytes);
  const range = { timeline: timelineId(timeline), start, end, segmentBytes: tree.segmentBytes };
  return { digest: await digestStored(relay.directory, range), end };
}

interface Sides {
  /** Whose WAL the relay has. */
  followed: PostgresCluster;
  /** To whom it is pointed. */
  other: PostgresCluster;
  /** What its log says. */
  reason: RegExp;
}

/** Pointed to another server the relay refuses it and keeps what it has; then it goes on. */
async function assertRefused(
  tree: TimelineTree,
  relay: WalcadeNode,
  { followed, other, reason }: Sides,
): Promise<void> {
  const before = await branchOf(tree, relay, 2);
  await relay.stop();
  const mark = await relay.log.mark();
  await relay.configure({ primary_conninfo: other.conninfo });
  await relay.start();
  await relay.waitForLog(reason, { since: mark });
  assert.notEqual((await relay.status()).upstream.state, 'streaming');
  assert.deepEqual(await branchOf(tree, relay, 2), before);

  await point(relay, followed);
  await insertRows(followed, 'when the relay is back', 100);
  await tree.assertFollows(relay, followed, 2);
}

/** Has the running relay follow another server. */
async function point(relay: WalcadeNode, upstream: PostgresCluster): Promise<void> {
  await relay.configure({ primary_conninfo: upstream.conninfo });
  relay.reload();
}
