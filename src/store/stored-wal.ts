/** What a start finds in pg_wal: walked, made durable and opened, for a WalStore to begin with. */
import type { Log } from '../base/log.ts';
import type { TimelineHistory } from '../wal/history.ts';
import { type Lsn, minLsn } from '../wal/lsn.ts';
import type { WalWalker } from '../wal/walker.ts';
import type { ControlFile } from './control-file.ts';
import { HistoryFiles } from './history-files.ts';
import { oldestStored } from './segment-catalog.ts';
import { SegmentReader } from './segment-reader.ts';
import { SegmentRemoval } from './segment-removal.ts';
import { SegmentWriter, type SegmentWriterOptions } from './segment-writer.ts';
import { WalBlocks } from './wal-blocks.ts';
import { readStored, recoverWalker, rewriteWalked } from './wal-recovery.ts';

export interface StoredWal {
  /** Of the timeline that WAL is received on. */
  history: TimelineHistory;
  reader: SegmentReader;
  writer: SegmentWriter;
  removal: SegmentRemoval;
  /** It has walked to the end of what is there. */
  walker: WalWalker;
  blocks: WalBlocks;
}

/**
 * Opens what the directory holds: walks it from where the control file says, and makes what was
 * walked durable. Throws XX001 if acknowledged WAL is lost, 58P01 at a gap.
 */
export async function openStored(
  options: SegmentWriterOptions & { log: Log },
  control: ControlFile,
): Promise<StoredWal> {
  const { disk, directory, segmentBytes } = options;
  const { data } = control;
  const { timeline } = data;
  const reader = new SegmentReader(disk, directory, segmentBytes);
  try {
    const history = await new HistoryFiles(disk, directory).history(timeline);
    const read = readStored(reader, () => history);
    const walker = await recoverWalker(read, data);
    const { received } = walker;
    const oldest: Lsn = oldestStored(await disk.list(directory), {
      history,
      received,
      segmentBytes,
    });
    const blocks = await WalBlocks.open(reader, timeline, received);
    const writer = new SegmentWriter(options);
    if (!data.cleanShutdown || received !== data.flushed) {
      const from = minLsn(data.flushed, received);
      await rewriteWalked(writer, read, { timeline, segmentBytes, from, to: received });
      await disk.syncDirectory(directory);
    }
    await control.update({ flushed: received, cleanShutdown: false });
    const removal = new SegmentRemoval({ ...options, reader }, oldest);
    return { history, reader, writer, removal, walker, blocks };
  } catch (error) {
    await reader.close();
    throw error;
  }
}
