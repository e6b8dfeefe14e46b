/**
 * Going on with another timeline: where two histories part, the segment of that position exists in
 * both names, with the same bytes before it (xlog.c, XLogInitNewTimeline()).
 *
 * Made durable before anything points to it: a crash leaves a file that nobody looks at. WAL of the
 * branch that is left stays in its own files.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type TimelineHistory, beginOf } from '../wal/history.ts';
import { type Lsn, advance, distance, formatLsn, lsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import type { WalWalker } from '../wal/walker.ts';
import type { ControlChange, ControlData } from './control-file.ts';
import type { DiskGuard } from './disk-guard.ts';
import { diskRefusal } from './disk-refusal.ts';
import type { SegmentReader } from './segment-reader.ts';
import type { SegmentWriter } from './segment-writer.ts';
import { BLOCK_BYTES } from './wal-block-cache.ts';
import { type ReadWal, readStored, walkTo } from './wal-recovery.ts';

/** Where a store leaves its branch, and what it goes on with there. */
export interface Branch {
  /** Of the timeline that it goes on with. */
  history: TimelineHistory;
  /** All before it is common to both. */
  at: Lsn;
}

/** What a store has that is about to branch. */
export interface BranchingStore {
  oldest: Lsn;
  received: Lsn;
  read: ReadWal;
  writer: SegmentWriter;
  reader: SegmentReader;
  disk: DiskGuard;
  control: Readonly<ControlData>;
}

/**
 * Makes the segment that the branch begins in. Gives the walker that has walked up to there, and
 * what the control file is to say from then on. Throws 58P01 or 22023 if the store cannot branch
 * there, and what the disk refuses.
 */
export async function makeBranch(
  branch: Branch,
  store: BranchingStore,
): Promise<{ walker: WalWalker; change: ControlChange }> {
  const { history, at } = branch;
  const { reader, control } = store;
  checkBranch(branch, store);
  try {
    await store.disk.durably(() => copyCommonPart(branch, store));
  } catch (error) {
    throw diskRefusal(error, 'write');
  }
  const walk = walkTowards(control, { at, oldest: store.oldest });
  const read = readStored(reader, () => history);
  const walker = await walkTo(read, { ...control, walk }, at);
  const change: ControlChange = ({ checkpointRedo: redo }) => ({
    timeline: history.timeline,
    flushed: at,
    walk,
    checkpointRedo: redo !== undefined && redo < at ? redo : undefined,
  });
  return { walker, change };
}

/** Throws 58P01 or 22023 unless a store with WAL from `oldest` to `received` can branch there. */
function checkBranch(
  { history, at }: Branch,
  { oldest, received }: { oldest: Lsn; received: Lsn },
): void {
  const { timeline } = history;
  if (at < oldest) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `timeline ${timeline} forked off at ${formatLsn(at)}, before the oldest WAL stored here`,
      {
        detail: `The oldest WAL of this node is at ${formatLsn(oldest)}.`,
        hint: 'Make the node anew from the server that it is to follow.',
      },
    );
  }
  if (at > received || at < beginOf(history)) {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `WAL of timeline ${timeline} cannot follow what is stored at ${formatLsn(at)}`,
      {
        detail:
          `The timeline begins at ${formatLsn(beginOf(history))}, ` +
          `what is stored here ends at ${formatLsn(received)}.`,
      },
    );
  }
}

/** Copies the part of the segment before the branch to the new timeline's name. */
async function copyCommonPart(branch: Branch, store: BranchingStore): Promise<void> {
  try {
    await writeCommonPart(branch, store);
  } finally {
    // Also of a copy that broke off: no other segment is written before its name is durable.
    await store.writer.sync();
  }
}

async function writeCommonPart({ history, at }: Branch, store: BranchingStore): Promise<void> {
  const { segmentBytes } = store.control;
  const block = Buffer.allocUnsafe(BLOCK_BYTES);
  for (let from = segmentStart(at, segmentBytes); from < at; ) {
    const part = block.subarray(0, Math.min(BLOCK_BYTES, distance(from, at)));
    if ((await store.read(from, part)) < part.length) {
      throw new WalcadeError(
        SQLSTATE.DATA_CORRUPTED,
        `could not read stored WAL at ${formatLsn(from)}`,
        { detail: `It is to begin timeline ${history.timeline}.` },
      );
    }
    await store.writer.write(history.timeline, from, [part]);
    from = advance(from, part.length);
  }
}

/** From where a start after the branch walks: as before it, or from a segment's start. */
function walkTowards(
  { walk, segmentBytes }: Pick<ControlData, 'walk' | 'segmentBytes'>,
  { at, oldest }: { at: Lsn; oldest: Lsn },
): ControlData['walk'] {
  if (walk.from <= at) return walk;
  return {
    from: at === oldest ? at : segmentStart(lsn(at - 1n), segmentBytes),
    startsAt: 'segment',
  };
}
