/** Segment files as they are read: kept open for the next read, and closed when that is over. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestDisk, systemError } from '../../test/harness/test-disk.ts';
import { WAL } from '../../test/harness/test-store.ts';
import { MB, START } from '../../test/harness/wal-walks.ts';
import { timelineId } from '../wal/lsn.ts';
import { SegmentReader } from './segment-reader.ts';

const ONE = timelineId(1);
const FIRST = '000000010000000000000001';
const into = Buffer.alloc(3);

// A removed segment that stayed open kept its space: a full disk stayed full.
test('a segment that is forgotten is closed, by its last reader if it has any', async () => {
  const { disk, reader } = await withSegment();
  await reader.read(ONE, START, into);
  assert.equal(disk.openFiles, 1, 'it is kept for the next read');
  reader.forget(FIRST);
  await new Promise(setImmediate);
  assert.equal(disk.openFiles, 0);

  const reads = [reader.read(ONE, START, into), reader.read(ONE, START, into)];
  reader.forget(FIRST);
  assert.deepEqual(await Promise.all(reads), [3, 3]);
  assert.equal(disk.openFiles, 0);
});

test('a file that could not be read is closed, and opened anew for the next read', async () => {
  const { disk, reader } = await withSegment();
  await reader.read(ONE, START, into);
  disk.onOperation = () => {
    throw systemError('EIO');
  };
  await assert.rejects(reader.read(ONE, START, into), { code: 'EIO' });
  assert.equal(disk.openFiles, 0);
  disk.onOperation = () => {};
  assert.equal(await reader.read(ONE, START, into), 3);
  await reader.close();
  assert.equal(disk.openFiles, 0);
});

async function withSegment(): Promise<{ disk: TestDisk; reader: SegmentReader }> {
  const disk = new TestDisk();
  await disk.makeDirectory(WAL);
  const file = await disk.open(`${WAL}/${FIRST}`, 'create');
  await file.write([Buffer.from('WAL')], 0);
  await file.close();
  return { disk, reader: new SegmentReader(disk, WAL, MB) };
}
