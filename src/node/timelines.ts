/**
 * The timelines of a node as its files tell them, whether it runs or not: the history files and
 * segments in pg_wal, and the control file. Nothing is changed.
 *
 * The control file is read first: what it points to is in pg_wal by then. A file that cannot be
 * read or makes no sense is one problem among others, and hides none of the rest.
 */
import { join } from 'node:path';
import { readWholeFile, systemDisk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { accessing } from '../base/file-access-error.ts';
import { plainTextUpTo } from '../base/plain-text.ts';
import { CONTROL_FILE } from '../store/control-file-name.ts';
import { type ControlData, readControlData } from '../store/control-file.ts';
import { SegmentReader } from '../store/segment-reader.ts';
import { findProvenEnd, readStored } from '../store/wal-recovery.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import { historyFileName, parseHistoryFileName, rootHistory } from '../wal/history.ts';
import { INVALID_LSN, type Lsn, type TimelineId, advance, formatLsn } from '../wal/lsn.ts';
import {
  type Contradiction,
  type TimelineInTree,
  type ToldHistory,
  buildTimelineTree,
  readToldHistory,
} from '../wal/timeline-tree.ts';
import { type KeptSegments, keptSegments, walkToEnd } from './kept-segments.ts';
import { checkNodeDirectory } from './node-directory.ts';
import { runningPid } from './node-lock.ts';

/** Of what stands in a damaged file, no more is shown. */
const FOUND_COLUMNS_MAX = 100;

export interface NodeTimelines {
  readonly systemIdentifier: bigint;
  readonly segmentBytes: number;
  readonly isRunning: boolean;
  /** By number. */
  readonly timelines: readonly NodeTimeline[];
  /** What is wrong with the files that this was made from. */
  readonly problems: readonly WalcadeError[];
}

export interface NodeTimeline extends TimelineInTree {
  /** Timeline 1 has none. */
  readonly historyFile: 'kept' | 'missing' | 'damaged';
  readonly segments: KeptSegments | undefined;
  /**
   * Up to where there is WAL in the timeline's segments. Of the current one, what is flushed: of a
   * node that runs a lower bound. Undefined without segments, or where they cannot be read.
   */
  readonly walEnd: Lsn | undefined;
}

/** Reads the timelines of the node in `directory`; throws 58P01 if there is no node. */
export async function readTimelines(directory: string): Promise<NodeTimelines> {
  await checkNodeDirectory(directory);
  const isRunning = (await runningPid(directory)) !== undefined;
  const control = await accessing('read file', join(directory, CONTROL_FILE), () =>
    readControlData(systemDisk, directory),
  );
  const folder = join(directory, WAL_DIRECTORY);
  const names = await accessing('open directory', folder, () => systemDisk.list(folder));
  const { told, damaged } = await readHistories(folder, names);
  const { segmentBytes, systemIdentifier, timeline: current } = control;
  const kept = keptSegments(names, segmentBytes);
  const others = [...kept.keys(), ...damaged.keys()];
  const tree = buildTimelineTree(told, { current, others });
  const problems = [...damaged.values(), ...tree.contradictions.map(contradiction)];
  const whole = new Set(told.map(({ timeline }) => timeline));
  const timelines: NodeTimeline[] = [];
  const reader = new SegmentReader(systemDisk, folder, segmentBytes);
  try {
    for (const each of tree.timelines) {
      const { timeline } = each;
      const segments = kept.get(timeline);
      const walEnd = await walEndOf(each, { segments, control, reader }).catch((error: unknown) => {
        problems.push(unreadable(error, `WAL of timeline ${timeline} in "${folder}"`));
        return undefined;
      });
      const historyFile = whole.has(timeline)
        ? 'kept'
        : damaged.has(timeline)
          ? 'damaged'
          : 'missing';
      timelines.push({ ...each, historyFile, segments, walEnd });
    }
  } finally {
    await reader.close();
  }
  return { systemIdentifier, segmentBytes, isRunning, timelines, problems };
}

async function readHistories(folder: string, names: readonly string[]) {
  const told: ToldHistory[] = [];
  const damaged = new Map<TimelineId, WalcadeError>();
  for (const name of names) {
    const timeline = parseHistoryFileName(name);
    if (timeline === undefined) continue;
    const path = join(folder, name);
    try {
      told.push(readToldHistory(timeline, await readWholeFile(systemDisk, path)));
    } catch (error) {
      const isDamage = error instanceof WalcadeError;
      const what = `history file "${path}"`;
      damaged.set(timeline, isDamage ? damage(error, what) : unreadable(error, what));
    }
  }
  return { told, damaged };
}

interface WalOfTimeline {
  segments: KeptSegments | undefined;
  control: ControlData;
  reader: SegmentReader;
}

async function walEndOf(
  { timeline, role, fork, leftAt }: TimelineInTree,
  { segments, control, reader }: WalOfTimeline,
): Promise<Lsn | undefined> {
  if (role === 'current') return control.flushed;
  if (segments === undefined) return undefined;
  const { segmentBytes, systemIdentifier } = control;
  const walk = walkToEnd(segments, leftAt ?? fork?.at ?? INVALID_LSN, segmentBytes);
  if (walk === undefined) return advance(segments.lastStart, segmentBytes);
  const read = readStored(reader, () => rootHistory(timeline));
  return await findProvenEnd(read, { systemIdentifier, segmentBytes, walk });
}

function damage({ message, hint }: WalcadeError, what: string): WalcadeError {
  const found = plainTextUpTo(FOUND_COLUMNS_MAX, message);
  return new WalcadeError(SQLSTATE.DATA_CORRUPTED, `${what} is damaged`, {
    detail: `Reading it gave: ${found}.${hint === undefined ? '' : ` ${hint}`}`,
    hint: 'Remove it: a node gets what is missing when it connects to its upstream.',
  });
}

function unreadable(error: unknown, what: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.IO_ERROR,
    `could not read ${what}: ${describeSystemError(error)}`,
    { hint: 'Check its owner and permissions, and the disk.', cause: error },
  );
}

function contradiction({ timeline, tales }: Contradiction): WalcadeError {
  const told = tales.map(({ fork: { parent, at }, files }) => {
    const [file, ...more] = files.map(historyFileName);
    const others = more.length === 0 ? '' : ` and ${more.length} more`;
    return `forked off timeline ${parent} at ${formatLsn(at)} (${file}${others})`;
  });
  return new WalcadeError(
    SQLSTATE.DATA_CORRUPTED,
    `history files contradict each other on timeline ${timeline}`,
    {
      detail: `It is said to have ${told.join(', and to have ')}; shown is what comes first.`,
      hint: 'Two servers have taken the same timeline number. Keep the WAL of one of them only.',
    },
  );
}
