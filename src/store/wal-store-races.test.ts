/** What the store does at the same time: none of it takes back what another has made known. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StoreUnderTest, WAL, newNodeDisk } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { readWholeFile } from '../base/disk.ts';
import { type Lsn, advance } from '../wal/lsn.ts';

const { wal, records } = made([100_000, 200_000, 200_000].map((bodyBytes) => ({ bodyBytes })));
const GOOD_END = recordEnd(1);

// A checkpoint between the two steps of a rewind noted the WAL that was just being zeroed as
// durable: a kill then, and the node said that acknowledged WAL was lost and did not start.
test('a checkpoint while the store rewinds notes nothing that the rewind takes back', async () => {
  const { node } = await withCorruptRecord();
  let isChecked = false;
  node.disk.onOperation = async ({ kind, path }) => {
    if (kind !== 'sync' || !path.startsWith(WAL) || isChecked) return;
    isChecked = true;
    await node.store.checkpoint();
    node.disk.cutPower();
  };
  await assert.rejects(node.rewind());
  assert.equal(node.control.data.flushed, GOOD_END);
  const next = await StoreUnderTest.open(node.disk.afterKill());
  assert.equal(next.store.received, GOOD_END);
  await next.stop();
});

// The block that a rewind was still reading was found by a reader, empty: the node crashed.
test('what was proven is read also while the store rewinds', async () => {
  const { node } = await withCorruptRecord();
  let reads = 0;
  node.disk.onOperation = async ({ kind, path }) => {
    if (kind !== 'read' || !path.startsWith(WAL)) return;
    const chunk = await node.store.read(node.store.history, START, advance(START, 1_000));
    assert.ok(wal.subarray(0, 1_000).equals(chunk.bytes));
    chunk.release();
    reads += 1;
  };
  await node.rewind();
  assert.ok(reads > 0);
  await node.stop();
});

// Corruption that came again and again had the rest of a segment written each time.
test('a rewind writes over what it takes back, not over the rest of the segment', async () => {
  const { node } = await withCorruptRecord();
  const { received } = node.store;
  await node.rewind();
  const content = await readWholeFile(node.disk, `${WAL}/000000010000000000000001`);
  assert.ok(content.subarray(Number(GOOD_END - START)).every((byte) => byte === 0));
  assert.ok(node.disk.bytesWritten < Number(received - START) * 2 + 64 * 1024);
  await node.stop();
});

test('a stop after a rewind that did not succeed leaves a store that starts', async () => {
  const { node } = await withCorruptRecord();
  let isFull = true;
  node.disk.onOperation = ({ kind, path }) => {
    if (isFull && kind === 'write' && path.startsWith(WAL)) throw new Error('no room');
  };
  await assert.rejects(node.rewind(), { message: 'could not write WAL: no room' });
  isFull = false;
  await node.stop();
  assert.equal(node.control.data.flushed, GOOD_END);
  assert.equal(node.control.data.cleanShutdown, false);
  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.received, GOOD_END);
  await next.stop();
});

// The upstream may have removed a segment whose end was reported, while a start needed it again.
test('a checkpoint does not take back the end of a segment that was just noted', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  const long = made([300_000, 1_500_000].map((bodyBytes) => ({ bodyBytes }))).wal;
  const segmentEnd = advance(START, MB);
  await node.appendDurably(long, advance(START, 900_000));
  let checkpoint: Promise<void> | undefined;
  node.disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && !path.startsWith(WAL)) checkpoint ??= node.store.checkpoint();
  };
  await node.appendDurably(long, segmentEnd);
  await checkpoint;
  assert.equal(node.store.flushed, segmentEnd);
  assert.equal(node.control.data.flushed, segmentEnd);
  node.disk.cutPower();
  const next = await StoreUnderTest.open(node.disk.afterKill());
  assert.equal(next.store.received, segmentEnd);
  await next.stop();
});

/** A store with part of its third record, in which the next bytes have shown a corruption. */
async function withCorruptRecord(): Promise<{ node: StoreUnderTest }> {
  const node = await StoreUnderTest.open(await newNodeDisk(), { sleep: 'for ever' });
  const corrupt = Buffer.from(wal);
  const at = Number(GOOD_END - START) + 150_000;
  corrupt.writeUInt8(corrupt.readUInt8(at) ^ 1, at);
  await node.appendDurably(corrupt, advance(GOOD_END, 180_000));
  assert.throws(() => node.append(corrupt), { sqlstate: 'XX001' });
  return { node };
}

function recordEnd(index: number): Lsn {
  return (records[index] as { end: Lsn }).end;
}
