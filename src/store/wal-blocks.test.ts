/** WAL in memory through a rewind: what is pinned, and what readers find meanwhile. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestDisk } from '../../test/harness/test-disk.ts';
import { WAL } from '../../test/harness/test-store.ts';
import { MB, START } from '../../test/harness/wal-walks.ts';
import { advance, timelineId } from '../wal/lsn.ts';
import { SegmentReader } from './segment-reader.ts';
import { WalBlocks } from './wal-blocks.ts';

const ONE = timelineId(1);
const CACHED_BLOCKS = 16;

// The block before a rewind was never given back: each rewind cost a block of memory for good.
test('a full block that a rewind leaves in memory gives way when room is needed', async () => {
  const disk = new TestDisk();
  await disk.makeDirectory(WAL);
  const blocks = await WalBlocks.open(new SegmentReader(disk, WAL, MB), ONE, START);
  blocks.append(Buffer.alloc(MB));
  const end = advance(START, MB);
  blocks.dropWritten(end);
  blocks.goOn(ONE, end, await blocks.readHead(ONE, end));
  for (let block = 0; block < CACHED_BLOCKS + 1; block += 1) {
    blocks.append(Buffer.alloc(MB));
    blocks.dropWritten(blocks.end);
  }
  // It is not in memory, and the disk of this test has no file of it either.
  await assert.rejects(async () => blocks.read(ONE, START, end), { sqlstate: '58P01' });
});
