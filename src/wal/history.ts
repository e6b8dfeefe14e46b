/**
 * Timeline history: which timelines a server's past consists of, and where each one ended.
 *
 * A history file is kept and served byte for byte as it came; what is parsed here is only for
 * decisions. The rules are those of timeline.c. Its ranges are looked up newest first: a recovery
 * target below an ancestor's switch point gives entries whose switch points go down.
 */
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { INVALID_LSN, advance, lsn, minLsn, timelineId, type Lsn, type TimelineId } from './lsn.ts';
import { segmentStart } from './segment.ts';

/** A timeline and its ancestors, oldest first, each with the position where it was left. */
export interface TimelineHistory {
  readonly timeline: TimelineId;
  readonly entries: readonly TimelineHistoryEntry[];
}

export interface TimelineHistoryEntry {
  readonly timeline: TimelineId;
  readonly switchPoint: Lsn;
}

const HISTORY_FILE_NAME = /^([0-9A-F]{8})\.history$/;

/** `00000002.history` (xlog_internal.h, TLHistoryFileName()). */
export function historyFileName(timeline: TimelineId): string {
  return `${timeline.toString(16).toUpperCase().padStart(8, '0')}.history`;
}

/** The timeline whose history file is called `name`, if it is a history file's name. */
export function parseHistoryFileName(name: string): TimelineId | undefined {
  const timeline = Number.parseInt(HISTORY_FILE_NAME.exec(name)?.[1] ?? '0', 16);
  return timeline === 0 ? undefined : timelineId(timeline);
}

/** The history of a timeline without a history file: 1, or one of which no more is known. */
export function rootHistory(timeline: TimelineId): TimelineHistory {
  return { timeline, entries: [] };
}

/**
 * Reads the history file of `timeline`; throws XX001 with PostgreSQL's texts for anything that
 * timeline.c, readTimeLineHistory() refuses.
 */
export function parseHistoryFile(
  timeline: TimelineId,
  content: string | Uint8Array,
): TimelineHistory {
  const text = typeof content === 'string' ? content : Buffer.from(content).toString('utf8');
  const entries: TimelineHistoryEntry[] = [];
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*(#|$)/.test(line)) continue;
    const entry = parseHistoryLine(line);
    const last = entries.at(-1);
    if (last && entry.timeline <= last.timeline) {
      throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `invalid data in history file: ${line}`, {
        hint: 'Timeline IDs must be in increasing sequence.',
      });
    }
    entries.push(entry);
  }
  const parent = entries.at(-1);
  if (parent && timeline <= parent.timeline) {
    throw new WalcadeError(
      SQLSTATE.DATA_CORRUPTED,
      `invalid data in history file "${historyFileName(timeline)}"`,
      { hint: "Timeline IDs must be less than child timeline's ID." },
    );
  }
  return { timeline, entries };
}

/** As sscanf's "%u\t%X/%X": any white space, even none, may stand for the tab. */
function parseHistoryLine(line: string): TimelineHistoryEntry {
  const number = /^\s*([0-9]+)/.exec(line);
  const timeline = Number(number?.[1]);
  if (!number || timeline < 1 || timeline > 0xffff_ffff) {
    throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `syntax error in history file: ${line}`, {
      hint: 'Expected a numeric timeline ID.',
    });
  }
  const rest = line.slice(number[0].length);
  const location = /^\s*(?:0x)?([0-9A-F]{1,8})\/\s*(?:0x)?([0-9A-F]{1,8})(?![0-9A-F])/i.exec(rest);
  if (!location) {
    throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `syntax error in history file: ${line}`, {
      hint: 'Expected a write-ahead log switchpoint location.',
    });
  }
  const switchPoint = lsn((BigInt(`0x${location[1]}`) << 32n) | BigInt(`0x${location[2]}`));
  return { timeline: timelineId(timeline), switchPoint };
}

/** The timeline that owns the WAL at `position` (timeline.c, tliOfPointInHistory()). */
export function timelineOf(history: TimelineHistory, position: Lsn): TimelineId {
  const { timeline, entries } = history;
  const begin = (index: number) => entries[index - 1]?.switchPoint ?? INVALID_LSN;
  if (position >= begin(entries.length)) return timeline;
  const entry = entries.findLast((e, i) => begin(i) <= position && position < e.switchPoint);
  assert(entry !== undefined, 'the ranges of a history have no gap');
  return entry.timeline;
}

/**
 * The timeline in whose name the segment of `position` is kept: the newest that owns a part of it,
 * as a segment with a switch point is copied to the next timeline's name (walsender.c,
 * WalSndSegmentOpen()).
 */
export function fileTimelineOf(
  history: TimelineHistory,
  position: Lsn,
  segmentBytes: number,
): TimelineId {
  if (history.entries.length === 0) return history.timeline;
  const last = advance(segmentStart(position, segmentBytes), segmentBytes - 1);
  return timelineOf(history, last);
}

/** Where the history's own timeline begins; 0/0 for one without ancestors. */
export function beginOf({ entries }: TimelineHistory): Lsn {
  return entries.at(-1)?.switchPoint ?? INVALID_LSN;
}

/** The history of an ancestor, as the history of its descendant tells it. */
export function ancestorHistory(history: TimelineHistory, timeline: TimelineId): TimelineHistory {
  if (timeline === history.timeline) return history;
  const index = history.entries.findIndex((entry) => entry.timeline === timeline);
  assert(index >= 0, 'an ancestor is in the history');
  return { timeline, entries: history.entries.slice(0, index) };
}

/**
 * Where `timeline` was left in `history`, and for which timeline; undefined for the history's own
 * timeline, which goes on. Throws XX000 if it is not in the history, as timeline.c,
 * tliSwitchPoint() does. A later switch below that point left it there already: what was undone is
 * no part of the history.
 */
export function switchPointOf(
  history: TimelineHistory,
  timeline: TimelineId,
): { next: TimelineId; switchPoint: Lsn } | undefined {
  if (timeline === history.timeline) return undefined;
  const index = history.entries.findIndex((entry) => entry.timeline === timeline);
  if (index < 0) {
    throw new WalcadeError(
      SQLSTATE.INTERNAL_ERROR,
      `requested timeline ${timeline} is not in this server's history`,
    );
  }
  const later = history.entries.slice(index);
  const switchPoint = later.map((entry) => entry.switchPoint).reduce((a, b) => minLsn(a, b));
  // What begins above it has nothing of its own.
  const before = later.findIndex((entry) => entry.switchPoint <= switchPoint);
  const next = later[before + 1]?.timeline ?? history.timeline;
  return { next, switchPoint };
}

/** Whether `timeline` is the history's own or an ancestor (timeline.c, tliInHistory()). */
export function isInHistory(history: TimelineHistory, timeline: TimelineId): boolean {
  return timeline === history.timeline || history.entries.some((e) => e.timeline === timeline);
}
