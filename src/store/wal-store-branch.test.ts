/** A store that goes on with another timeline: what is kept, served, and found after a restart. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StoreUnderTest, WAL, newNodeDisk, readAll } from '../../test/harness/test-store.ts';
import { systemError } from '../../test/harness/test-disk.ts';
import { CLUSTER, MB, START, made } from '../../test/harness/wal-walks.ts';
import { buildWalWithPositions } from '../../test/harness/wal-builder.ts';
import { writeFileDurably } from '../base/disk.ts';
import { type TimelineHistory, parseHistoryFile } from '../wal/history.ts';
import { type Lsn, advance, formatLsn, timelineId } from '../wal/lsn.ts';

const ONE = made([40, 9_000, 300_000, 24, 1_000_000, 700_000].map((b) => ({ bodyBytes: b })));

test('a store that branches at the end of its timeline goes on there', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal, endOf(3));
  const switched = await branchAt(node, 2, '1', endOf(3));
  assert.equal(node.store.timeline, 2);
  assert.equal(node.store.served.value, endOf(3));
  await node.appendDurably(switched);
  assert.equal(node.store.served.value, advance(START, switched.length));
  assert.ok((await readAll(node.store)).equals(switched));
  await node.stop();

  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.timeline, 2);
  assert.equal(next.store.received, advance(START, switched.length));
  assert.ok((await readAll(next.store)).equals(switched));
  await next.stop();
});

test('WAL behind a fork is kept in its own file and read by who reads that branch', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal);
  const { history, served } = node.store;
  const switched = await branchAt(node, 2, '1', endOf(3));
  await node.appendDurably(switched);
  assert.ok((await readAll(node.store)).equals(switched));
  const chunk = await node.store.read(history, endOf(3), advance(endOf(3), 100));
  const from = Number(endOf(3) - START);
  assert.ok(Buffer.from(chunk.bytes).equals(ONE.wal.subarray(from, from + 100)));
  chunk.release();
  assert.equal(served.value, advance(START, ONE.wal.length));
  const names = await node.disk.list(WAL);
  assert.ok(names.includes('000000010000000000000002'), names.join());
  await node.stop();
});

test('a part of a record behind the switch point is let go', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal, advance(endOf(3), 500_000));
  const switched = await branchAt(node, 2, '1', endOf(3));
  await node.appendDurably(switched);
  assert.ok((await readAll(node.store)).equals(switched));
  await node.stop();
});

test('several timelines in one segment, and a step back to an ancestor', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal, endOf(1));
  const two = await branchAt(node, 2, '1', endOf(1));
  await node.appendDurably(two);
  const afterTwo = advance(START, two.length);
  await branchAt(node, 3, '2', afterTwo);
  const back = parseHistoryFile(timelineId(1), '');
  await node.store.branch({ history: back, at: endOf(1) }, node.ended);
  assert.equal(node.store.timeline, 1);
  await node.appendDurably(ONE.wal);
  assert.ok((await readAll(node.store)).equals(ONE.wal));
  await node.stop();

  const next = await StoreUnderTest.open(node.disk);
  assert.ok((await readAll(next.store)).equals(ONE.wal));
  await next.stop();
});

test('a store branches only where it has WAL, and is as it was', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal, endOf(3));
  const ahead = advance(endOf(3), 8);
  await assert.rejects(branchAt(node, 2, '1', ahead), { sqlstate: '22023' });
  const before = historyOf(2, `1\t0/8000\n`);
  const branch = { history: before, at: before.entries[0]?.switchPoint ?? assert.fail() };
  await assert.rejects(node.store.branch(branch, node.ended), { sqlstate: '58P01' });
  await node.appendDurably(ONE.wal);
  assert.ok((await readAll(node.store)).equals(ONE.wal));
  await node.stop();
});

test('a branch that finds no room leaves the store where it was, and it goes on', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal, endOf(3));
  node.disk.onOperation = ({ kind, path }) => {
    // The segment of timeline 2 is made of the spare one.
    if (kind === 'write' && /xlogtemp|0{7}2/.test(path)) throw systemError('ENOSPC');
  };
  const branch = { history: historyOf(2, `1\t${formatLsn(endOf(3))}\n`), at: endOf(3) };
  await assert.rejects(node.store.branch(branch, node.ended), {
    sqlstate: '53100',
    message: 'could not write WAL: No space left on device',
  });
  node.disk.onOperation = () => {};
  await node.appendDurably(ONE.wal);
  assert.ok((await readAll(node.store)).equals(ONE.wal));
  const switched = await branchAt(node, 2, '1', endOf(3));
  await node.appendDurably(switched);
  assert.ok((await readAll(node.store)).equals(switched));
  await node.stop();
});

test('no WAL is removed while a store branches: it may be what it goes on from', async () => {
  const node = await openStore();
  await node.appendDurably(ONE.wal);
  await node.store.checkpoint();
  let removal: Promise<void> | undefined;
  node.disk.onOperation = ({ path }) => {
    if (path.endsWith('000000020000000000000001')) {
      removal ??= node.store.removeBefore(advance(START, MB));
    }
  };
  const switched = await branchAt(node, 2, '1', endOf(1));
  await removal;
  assert.ok(removal !== undefined);
  assert.equal(node.store.oldest, START);
  await node.stop();
  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.received, endOf(1));
  await next.appendDurably(switched);
  assert.ok((await readAll(next.store)).equals(switched));
  await next.stop();
});

test('a new store that begins before its timeline serves what it has, no more', async () => {
  const disk = await newNodeDisk({ timeline: timelineId(2) });
  const text = `1\t${formatLsn(endOf(3))}\n`;
  await writeFileDurably(disk, `${WAL}/00000002.history`, Buffer.from(text));
  const node = await StoreUnderTest.open(disk);
  const { store } = node;
  assert.equal(store.served.value, START);
  await node.appendDurably(ONE.wal, advance(START, 100_000));
  assert.equal(store.served.value, endOf(1));
  await node.rewind();
  assert.equal(store.received, endOf(1));
  await node.appendDurably(ONE.wal, endOf(3));
  assert.equal(store.served.value, endOf(3));
  await node.stop();
});

test('a new store learns the ancestors of its timeline', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk({ timeline: timelineId(2) }));
  const history = historyOf(2, `1\t${formatLsn(endOf(3))}\n`);
  node.store.learnHistory(history);
  assert.deepEqual(node.store.history, history);
  await node.appendDurably(ONE.wal, endOf(3));
  assert.ok((await readAll(node.store)).equals(ONE.wal.subarray(0, Number(endOf(3) - START))));
  await node.stop();
});

async function openStore(): Promise<StoreUnderTest> {
  return StoreUnderTest.open(await newNodeDisk());
}

/** The end of the record `index` of timeline 1. */
function endOf(index: number): Lsn {
  return ONE.records[index]?.end ?? assert.fail();
}

function historyOf(timeline: number, text: string): TimelineHistory {
  return parseHistoryFile(timelineId(timeline), text);
}

/** Branches off to `timeline`, and gives all of its WAL from START on. */
async function branchAt(
  node: StoreUnderTest,
  timeline: number,
  parents: string,
  at: Lsn,
): Promise<Buffer> {
  const { history } = node.store;
  const lines = history.entries.map((e) => `${e.timeline}\t${formatLsn(e.switchPoint)}\n`).join('');
  const text = `${lines}${parents}\t${formatLsn(at)}\n`;
  await writeFileDurably(
    node.disk,
    `${WAL}/${timeline.toString().padStart(8, '0')}.history`,
    Buffer.from(text),
  );
  await node.store.branch({ history: historyOf(timeline, text), at }, node.ended);
  const before = await readAll(node.store, at);
  const previous = ONE.records.findLast(({ end }) => end <= at)?.start;
  const after = buildWalWithPositions({
    segmentBytes: MB,
    start: at,
    timeline,
    systemIdentifier: CLUSTER,
    records: [{ bodyBytes: 500 }, { bodyBytes: 900_000 }],
    ...(previous === undefined ? {} : { previous }),
  });
  return Buffer.concat([before, after.wal]);
}
