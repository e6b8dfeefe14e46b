/**
 * Start by walking: from a proven record that the control file names to the end of what is proven
 * on disk. Nothing before that record is looked at, so a start costs the same for any store.
 *
 *   end ≥ flushed   WAL that was acknowledged is there; if not, that is an error said loudly
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type TimelineHistory, fileTimelineOf } from '../wal/history.ts';
import {
  type Lsn,
  type TimelineId,
  advance,
  alignDown,
  distance,
  formatLsn,
  minLsn,
} from '../wal/lsn.ts';
import type { Checkpoint } from '../wal/record.ts';
import { WalCorruption, WalWalker } from '../wal/walker.ts';
import type { ControlData } from './control-file.ts';
import type { SegmentReader } from './segment-reader.ts';
import type { SegmentWriter } from './segment-writer.ts';
import { BLOCK_BYTES } from './wal-block-cache.ts';

/** Reads stored WAL at `position` into `into`, up to its segment's end; 0 when there is none. */
export type ReadWal = (position: Lsn, into: Buffer) => Promise<number>;

interface Origin extends Pick<ControlData, 'systemIdentifier' | 'segmentBytes' | 'walk'> {
  /** What was found before the walk's start. */
  lastCheckpoint?: Checkpoint | undefined;
}

function newWalker({ walk, ...others }: Origin): WalWalker {
  return new WalWalker({ ...others, start: walk.from, startsAt: walk.startsAt });
}

/** A walker that has walked from the control file's record to `end`. Throws if not all is WAL. */
export async function walkTo(read: ReadWal, origin: Origin, end: Lsn): Promise<WalWalker> {
  const walker = newWalker(origin);
  await pushStored(read, walker, end);
  if (walker.received < end) {
    throw new WalcadeError(
      SQLSTATE.DATA_CORRUPTED,
      `stored WAL ends at ${formatLsn(walker.received)}, before ${formatLsn(end)}`,
    );
  }
  return walker;
}

/** Where the proven WAL on disk ends, walking from the control file's record. */
export async function findProvenEnd(read: ReadWal, origin: Origin): Promise<Lsn> {
  return (await walkAll(read, origin)).proven;
}

/** A walker that has walked all there is; it may have gone beyond what is proven. */
async function walkAll(read: ReadWal, origin: Origin): Promise<WalWalker> {
  const walker = newWalker(origin);
  try {
    await pushStored(read, walker, undefined);
  } catch (error) {
    if (!(error instanceof WalCorruption)) throw error;
  }
  return walker;
}

/** From where to walk to the end of what `walker` has proven: its last record is enough. */
function lastRecordOf(walker: WalWalker, { walk, ...others }: Origin): Origin {
  const { provenRecordStart: from, lastCheckpoint } = walker;
  if (from === undefined) return { walk, ...others };
  return { ...others, walk: { from, startsAt: 'record' }, lastCheckpoint };
}

/**
 * The walker of a store that starts: at the end of the proven WAL, or at the durable flush if that
 * lies inside the record that was arriving. Throws XX001 when acknowledged WAL is lost.
 */
export async function recoverWalker(
  read: ReadWal,
  control: Origin & Pick<ControlData, 'flushed'>,
): Promise<WalWalker> {
  const { systemIdentifier, segmentBytes, walk, flushed } = control;
  const origin = { systemIdentifier, segmentBytes, walk };
  const walker = await walkAll(read, origin);
  const provenEnd = walker.proven;
  if (provenEnd >= flushed) return walkTo(read, lastRecordOf(walker, origin), provenEnd);
  try {
    return await walkTo(read, origin, flushed);
  } catch (error) {
    throw new WalcadeError(
      SQLSTATE.DATA_CORRUPTED,
      `acknowledged WAL is lost between ${formatLsn(provenEnd)} and ${formatLsn(flushed)}`,
      {
        detail: error instanceof Error ? `Reading it gave: ${error.message}.` : undefined,
        hint: 'The disk did not keep what it had confirmed. Check it, then make the node anew.',
        cause: error,
      },
    );
  }
}

async function pushStored(read: ReadWal, walker: WalWalker, end: Lsn | undefined): Promise<void> {
  const buffer = Buffer.allocUnsafe(BLOCK_BYTES);
  for (;;) {
    const position = walker.received;
    const blockEnd = advance(alignDown(position, BLOCK_BYTES), BLOCK_BYTES);
    const length = distance(position, end === undefined ? blockEnd : minLsn(end, blockEnd));
    if (length === 0) return;
    const bytesRead = await read(position, buffer.subarray(0, length));
    if (bytesRead === 0) return;
    walker.push(buffer.subarray(0, bytesRead));
  }
}

/**
 * Reads at a position up to the end of its block, as `history` has it; a segment that is not there
 * has no bytes.
 */
export function readStored(reader: SegmentReader, history: () => TimelineHistory): ReadWal {
  return async (position, into) => {
    try {
      const timeline = fileTimelineOf(history(), position, reader.segmentBytes);
      return await reader.read(timeline, position, into);
    } catch (error) {
      if (error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE) return 0;
      throw error;
    }
  };
}

/**
 * After a crash: writes what was walked since the durable flush once more and syncs it, since a
 * page that the kernel gave up writing may look clean; then clears what follows in the segment.
 */
export async function rewriteWalked(
  writer: SegmentWriter,
  read: ReadWal,
  range: { timeline: TimelineId; segmentBytes: number; from: Lsn; to: Lsn },
): Promise<void> {
  const { timeline, segmentBytes, from, to } = range;
  const block = Buffer.allocUnsafe(BLOCK_BYTES);
  let at = alignDown(from, BLOCK_BYTES);
  while (at < to) {
    const length = Math.min(BLOCK_BYTES, distance(at, to));
    await read(at, block.subarray(0, length));
    await writer.write(timeline, at, [block.subarray(0, length)]);
    at = advance(at, length);
    if (at % BigInt(segmentBytes) === 0n) await writer.sync();
  }
  if (to % BigInt(segmentBytes) !== 0n) await writer.zeroFrom(timeline, to);
  await writer.sync();
}
