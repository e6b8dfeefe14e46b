/** The store on a disk that is slow, full, torn or failing: what is durable, served and told. */
import assert from 'node:assert/strict';
import { basename } from 'node:path';
import { test } from 'node:test';
import { type TestDisk, systemError } from '../../test/harness/test-disk.ts';
import { NODE, StoreUnderTest, WAL, newNodeDisk, readAll } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { AssertionFailed } from '../base/assert.ts';
import { type Lsn, advance, alignDown, formatLsn } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { isSegmentName } from '../wal/segment.ts';
import { CONTROL_FILE } from './control-file-name.ts';

const { wal, records } = made([40, 9_000, 300_000, 24, 1_000_000].map((b) => ({ bodyBytes: b })));
const END = advance(START, wal.length);
/** Six segments. */
const MANY = made(Array.from({ length: 60 }, () => ({ bodyBytes: 100_000 })));

test('what was appended is flushed, served to the last record, read back as it was', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(wal);
  assert.equal(node.store.flushed, END);
  assert.equal(node.store.served.value, END);
  assert.ok((await readAll(node.store)).equals(wal));
  await node.stop();

  // After a stop the next start finds it all, and goes on.
  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.received, END);
  assert.equal(next.store.proven, END);
  assert.ok((await readAll(next.store)).equals(wal));
  await next.stop();
});

test('WAL is served once it is written, before it is durable', async () => {
  const { disk, node, release } = await withStuck('sync');
  node.append(wal, endOf(2));
  await settled();
  assert.equal(node.store.served.value, endOf(2));
  assert.equal(node.store.written, endOf(2));
  assert.equal(node.store.flushed, START);
  assert.ok((await readAll(node.store)).equals(wal.subarray(0, Number(endOf(2) - START))));
  release();
  await node.stop();
  assert.equal(node.store.flushed, endOf(2));
  assert.equal(disk.isCut, false);
});

test('a disk that does not answer shows in how long it has been busy', async () => {
  const { node, release } = await withStuck('sync');
  assert.equal(node.store.diskTimes.busyMs, 0);
  node.append(wal, endOf(1));
  await settled();
  node.clock.elapsedMs += 30_000;
  assert.equal(node.store.diskTimes.busyMs, 30_000);
  release();
  await node.store.drained(node.ended);
  assert.equal(node.store.diskTimes.busyMs, 0);
  await node.stop();
});

// A control file that hung at a segment's end held up everything, and nobody was told.
test('a control file that does not answer shows in how long the disk has been busy', async () => {
  const { node, release } = await withStuck('sync', { path: `${NODE}/${CONTROL_FILE}` });
  node.append(MANY.wal, advance(START, MB + 1_000));
  await settled();
  node.clock.elapsedMs += 30_000;
  assert.equal(node.store.diskTimes.busyMs, 30_000);
  release();
  await node.store.drained(node.ended);
  assert.equal(node.store.diskTimes.busyMs, 0);
  await node.stop();
});

test('an unfinished record is stored and made durable, and not served', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  const middle = advance(endOf(1), 100_003);
  await node.appendDurably(wal, middle);
  assert.equal(node.store.flushed, middle);
  assert.equal(node.store.proven, endOf(1));
  assert.equal(node.store.served.value, endOf(1));
  await node.stop();

  // A start takes it up where it was, within the record.
  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.received, middle);
  assert.equal(next.store.served.value, endOf(1));
  await next.appendDurably(wal);
  assert.ok((await readAll(next.store)).equals(wal));
  await next.stop();
});

test('WAL written while more comes is served to a page boundary, not within a record', async () => {
  const { node, release } = await withStuck('write');
  const middle = advance(endOf(1), 100_003);
  node.append(wal, middle);
  await settled();
  // The rest of the record arrives, and proves it, while its first part is being written.
  node.append(wal, endOf(2));
  const seen: Lsn[] = [];
  node.store.progress.listen(() => seen.push(node.store.served.value));
  release();
  await node.store.drained(node.ended);
  assert.equal(seen[0], alignDown(middle, PAGE_BYTES));
  assert.equal(seen.at(-1), endOf(2));
  await node.stop();
});

test('corrupt WAL is not taken, what precedes it is; after a rewind it is taken anew', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  const corrupt = Buffer.from(wal);
  const at = Number(endOf(2) - START) - 1_000;
  corrupt.writeUInt8(corrupt.readUInt8(at) ^ 1, at);
  assert.throws(() => node.append(corrupt), { name: 'WalcadeError', sqlstate: 'XX001' });
  assert.equal(node.store.needsRewind, true);
  assert.equal(node.store.proven, endOf(1));
  await node.store.drained(node.ended);
  assert.equal(node.store.served.value, endOf(1));
  assert.ok(node.store.flushed < endOf(2));

  await node.rewind();
  assert.equal(node.store.needsRewind, false);
  assert.equal(node.store.received, endOf(1));
  await node.appendDurably(wal);
  assert.ok((await readAll(node.store)).equals(wal));
  await node.stop();
});

test('corrupt WAL in a later segment than its record is forgotten, at a start too', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  const corrupt = Buffer.from(wal);
  corrupt.writeUInt8(corrupt.readUInt8(wal.length - 100) ^ 1, wal.length - 100);
  assert.throws(() => node.append(corrupt), { sqlstate: 'XX001' });
  assert.ok(node.store.received > advance(START, MB), 'its record went over the segment boundary');
  await node.rewind();
  assert.equal(node.store.received, endOf(3));
  await node.stop();
  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.received, endOf(3));
  await next.appendDurably(wal);
  assert.ok((await readAll(next.store)).equals(wal));
  await next.stop();
});

test('a full disk stops intake in words, tells nothing false, and goes on with room', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(wal, endOf(1));
  let isFull = true;
  node.disk.onOperation = ({ kind }) => {
    if (kind === 'write' && isFull) throw systemError('ENOSPC');
  };
  const control = node.disk.operations;
  await node.appendDurably(wal, endOf(2));
  assert.ok(node.disk.operations > control);
  assert.equal(node.store.failure?.sqlstate, '53100');
  assert.equal(node.store.failure?.message, 'could not write WAL: No space left on device');
  assert.equal(node.store.flushed, endOf(1));
  assert.equal(node.store.served.value, endOf(1));
  assert.throws(() => node.append(wal), { sqlstate: '53100' });
  await assert.rejects(node.rewind(), { sqlstate: '53100' });
  assert.equal(node.store.failure?.sqlstate, '53100');

  isFull = false;
  await node.rewind();
  assert.equal(node.store.failure, undefined);
  assert.equal(node.store.received, endOf(1));
  await node.appendDurably(wal);
  assert.ok((await readAll(node.store)).equals(wal));
  await node.stop();
});

test('a failed fsync ends the run and is never tried again', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(wal, endOf(1));
  const syncs = failSyncs(node.disk);
  node.append(wal, endOf(2));
  await settled();
  await assert.rejects(node.stop(), {
    sqlstate: '58030',
    message: 'could not fsync WAL: Input/output error',
  });
  assert.equal(syncs(), 1);
  assert.equal(node.store.flushed, endOf(1));

  // The next start finds what is there, and makes it durable before it says so.
  node.disk.onOperation = () => {};
  const next = await StoreUnderTest.open(node.disk);
  assert.ok(next.store.flushed >= endOf(1));
  next.disk.cutPower();
  const last = await StoreUnderTest.open(next.disk.afterPowerCut(() => false));
  assert.equal(last.store.received, next.store.flushed);
});

// A stop that waited for the last WAL to be durable waited until its time limit was over.
test('who waits for WAL to be durable is told of a failed fsync at once', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  failSyncs(node.disk);
  node.append(wal, endOf(1));
  const forEver = new AbortController().signal;
  await assert.rejects(node.store.drained(forEver), { sqlstate: '58030' });
  await assert.rejects(node.store.drained(forEver), { sqlstate: '58030' });
  await assert.rejects(node.stop(), { sqlstate: '58030' });
});

test('a refused control file stops intake at a segment end, until it is taken', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  const segmentEnd = advance(START, MB);
  node.disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && path.endsWith(CONTROL_FILE)) throw systemError('ENOSPC');
  };
  await node.appendDurably(MANY.wal, segmentEnd);
  const message = 'could not write file "walcade.control": No space left on device';
  assert.equal(node.store.failure?.message, message);
  assert.ok(node.store.flushed < segmentEnd, 'no end is reported that a start does not know');
  await assert.rejects(node.rewind(), { sqlstate: '53100', message });
  node.disk.onOperation = () => {};
  await node.rewind();
  assert.equal(node.store.flushed, segmentEnd);
  assert.equal(node.control.data.flushed, segmentEnd);
  await node.appendDurably(MANY.wal);
  assert.ok((await readAll(node.store)).equals(MANY.wal));
  await node.stop();
});

test('an fsync of the control file that fails ends the run as any other', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(wal, endOf(1));
  node.disk.onOperation = ({ kind, path }) => {
    if (kind === 'sync' && path.endsWith(CONTROL_FILE)) throw systemError('EIO');
  };
  const message = 'could not fsync file "walcade.control": Input/output error';
  await assert.rejects(node.store.checkpoint(), { message });
  await assert.rejects(node.stop(), { message });
});

// It was told as a disk that could not be written, and the node went on with what was broken.
test('an invariant that breaks while WAL is written ends the run', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  node.disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && isSegment(path)) throw new AssertionFailed('made by the test');
  };
  node.append(wal, endOf(1));
  await settled();
  await assert.rejects(node.stop(), { name: 'AssertionFailed' });
  assert.equal(node.store.failure, undefined);
});

test('a failed fsync of the last WAL ends a stop with an error', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(wal, endOf(1));
  failSyncs(node.disk);
  await assert.rejects(node.stop(), { sqlstate: '58030' });
  const next = await StoreUnderTest.open(Object.assign(node.disk, { onOperation: () => {} }));
  assert.equal(next.store.received, endOf(1));
  await next.stop();
});

test('an fsync that fails while the store rewinds ends the run as any other', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  let fault: 'full' | 'failing' = 'full';
  let syncs = 0;
  node.disk.onOperation = ({ kind, path }) => {
    if (!isSegment(path)) return;
    if (kind === 'write' && fault === 'full') throw systemError('ENOSPC');
    if (kind === 'sync' && fault === 'failing') {
      syncs += 1;
      throw systemError('EIO');
    }
  };
  await node.appendDurably(wal, endOf(1));
  fault = 'failing';
  await assert.rejects(node.rewind(), { sqlstate: '58030' });
  await assert.rejects(node.stop(), { sqlstate: '58030' });
  assert.equal(syncs, 1);
});

test('a start reads from the record that the control file names, no WAL before it', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(MANY.wal);
  await node.stop();
  const before = node.disk.bytesRead;
  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.received, advance(START, MANY.wal.length));
  const bytesRead = node.disk.bytesRead - before;
  assert.ok(bytesRead < 2 * MB, `${bytesRead} bytes were read of ${MANY.wal.length}`);
  await next.stop();
});

test('WAL that was acknowledged and is gone stops a start, loudly', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  await node.appendDurably(wal, endOf(1));
  const middle = advance(endOf(1), 100_003);
  await node.appendDurably(wal, middle);
  await node.store.checkpoint();
  assert.equal(node.control.data.walk.from, endOf(0));
  node.disk.cutPower();
  const disk = node.disk.afterPowerCut(() => false);
  disk.corrupt(`${WAL}/000000010000000000000001`, Number(endOf(0) - START) + 5_000);
  const [from, to] = [formatLsn(endOf(0)), formatLsn(middle)];
  await assert.rejects(StoreUnderTest.open(disk), {
    sqlstate: 'XX001',
    message: `acknowledged WAL is lost between ${from} and ${to}`,
    detail: `Reading it gave: incorrect resource manager data checksum in record at ${from}.`,
    hint: 'The disk did not keep what it had confirmed. Check it, then make the node anew.',
  });
});

test('removed WAL is gone, and asking for it is answered in words of PostgreSQL', async () => {
  const node = await StoreUnderTest.open(await newNodeDisk());
  const { store } = node;
  await node.appendDurably(MANY.wal);
  const kept = advance(START, 2 * MB);
  await store.removeBefore(kept);
  assert.equal(store.oldest, kept);
  assert.deepEqual(await segments(node.disk), [3, 4, 5, 6]);
  await node.stop();

  const next = await StoreUnderTest.open(node.disk);
  assert.equal(next.store.oldest, kept);
  await assert.rejects(async () => next.store.read(store.history, START, kept), {
    sqlstate: '58P01',
    message: 'requested WAL segment 000000010000000000000001 has already been removed',
  });
  await next.stop();
});

/** The numbers of the segments there are. */
async function segments(disk: TestDisk): Promise<number[]> {
  const names = (await disk.list(WAL)).filter(isSegmentName).sort();
  return names.map((name) => Number.parseInt(name.slice(16), 16));
}

function endOf(index: number): Lsn {
  return (records[index] as { end: Lsn }).end;
}

/** Lets everything run that waits for nothing but the disk, which answers at once. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 200; turn++) await Promise.resolve();
}

/** A store whose operations of `kind`, in pg_wal by default, do not return until `release`. */
async function withStuck(
  kind: 'write' | 'sync',
  { path = WAL } = {},
): Promise<{
  disk: TestDisk;
  node: StoreUnderTest;
  release: () => void;
}> {
  const disk = await newNodeDisk();
  const node = await StoreUnderTest.open(disk, { sleep: 'for ever' });
  let release = (): void => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  disk.onOperation = (operation) => {
    const isStuck = operation.kind === kind && operation.path.startsWith(path);
    return isStuck ? released : undefined;
  };
  return { disk, node, release };
}

/** Whether WAL is in the file: a spare segment has none yet. */
function isSegment(path: string): boolean {
  return isSegmentName(basename(path));
}

/** From now on every fsync of WAL fails; gives how many were tried. */
function failSyncs(disk: TestDisk): () => number {
  let syncs = 0;
  disk.onOperation = ({ kind, path }) => {
    if (kind !== 'sync' || !isSegment(path)) return;
    syncs += 1;
    throw systemError('EIO');
  };
  return () => syncs;
}
