/** What a start finds in pg_wal, opened and walked: what a WalStore begins with. */
import type { Disk } from '../base/disk.ts';
import type { Lsn } from '../wal/lsn.ts';
import type { WalWalker } from '../wal/walker.ts';
import type { ControlData } from './control-file.ts';
import { oldestStored } from './segment-catalog.ts';
import { SegmentReader } from './segment-reader.ts';
import { WalBlocks } from './wal-blocks.ts';
import { readStored, recoverWalker } from './wal-recovery.ts';

export interface StoredWal {
  reader: SegmentReader;
  /** It has walked to the end of what is there. */
  walker: WalWalker;
  /** Where the oldest segment begins. */
  oldest: Lsn;
  blocks: WalBlocks;
}

/** Opens what `directory` holds. Throws XX001 if acknowledged WAL is lost, 58P01 at a gap. */
export async function openStored(
  disk: Disk,
  directory: string,
  control: ControlData,
): Promise<StoredWal> {
  const { timeline, segmentBytes } = control;
  const reader = new SegmentReader(disk, directory, segmentBytes);
  try {
    const walker = await recoverWalker(readStored(reader, timeline), control);
    const { received } = walker;
    const names = await disk.list(directory);
    const oldest = oldestStored(names, { timeline, received, segmentBytes });
    const blocks = await WalBlocks.open(reader, timeline, received);
    return { reader, walker, oldest, blocks };
  } catch (error) {
    await reader.close();
    throw error;
  }
}
