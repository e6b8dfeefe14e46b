/**
 * Where two timeline histories part: how far two servers have the same past, and whether they have
 * given one number to two timelines. Functions of what the history files say; the WAL itself is
 * compared elsewhere.
 */
import { INVALID_LSN, type Lsn, type TimelineId, formatLsn, lsn, minLsn } from './lsn.ts';
import type { TimelineHistory } from './history.ts';

/**
 * The last position that two histories have in common, and its timeline; undefined, at 0/0, for
 * two that do not even begin with the same timeline.
 */
export interface PartingPoint {
  readonly timeline: TimelineId | undefined;
  readonly position: Lsn;
}

/** `at 0/3000060 on timeline 1`. */
export function describePartingPoint({ timeline, position }: PartingPoint): string {
  if (timeline === undefined) return 'at their very beginning';
  return `at ${formatLsn(position)} on timeline ${timeline}`;
}

/** The WAL of a history that is on one timeline: from `begin` up to `end`. */
export interface TimelineRange {
  readonly timeline: TimelineId;
  readonly begin: Lsn;
  readonly end: Lsn;
}

const END_OF_TIME: Lsn = lsn(0xffff_ffff_ffff_ffffn);

/**
 * Where two histories part; undefined if they are the same. A history and a later one that grew
 * from it part where the later one left the timeline (pg_rewind.c,
 * findCommonAncestorTimeline()).
 */
export function partingPoint(a: TimelineHistory, b: TimelineHistory): PartingPoint | undefined {
  const [left, right] = [rangesOf(a), rangesOf(b)];
  let common: PartingPoint = { timeline: undefined, position: INVALID_LSN };
  for (const [index, range] of left.entries()) {
    const other = right[index];
    if (other === undefined || !isSameTimeline(range, other)) return common;
    const position = minLsn(range.end, other.end);
    // A switch back below its beginning leaves nothing of a timeline.
    if (position > range.begin) common = { timeline: range.timeline, position };
  }
  return left.length === right.length ? undefined : common;
}

/** The lowest number that the two have given to different timelines, if there is one. */
export function contestedTimeline(a: TimelineHistory, b: TimelineHistory): TimelineId | undefined {
  const right = rangesOf(b);
  const isContested = (range: TimelineRange): boolean => {
    const other = right.find(({ timeline }) => timeline === range.timeline);
    if (other === undefined || isSameTimeline(range, other)) return false;
    // Of a timeline without ancestors it is not known where it began.
    return range.begin !== INVALID_LSN && other.begin !== INVALID_LSN;
  };
  return rangesOf(a).find(isContested)?.timeline;
}

function isSameTimeline(a: TimelineRange, b: TimelineRange): boolean {
  return a.timeline === b.timeline && a.begin === b.begin;
}

/** Oldest first. What a later switch went back below was not gone through to its end. */
export function rangesOf({ timeline, entries }: TimelineHistory): TimelineRange[] {
  const begin = (index: number): Lsn => entries[index - 1]?.switchPoint ?? INVALID_LSN;
  const ranges: TimelineRange[] = [{ timeline, begin: begin(entries.length), end: END_OF_TIME }];
  let end = END_OF_TIME;
  for (const [index, entry] of [...entries.entries()].toReversed()) {
    end = minLsn(end, entry.switchPoint);
    ranges.unshift({ timeline: entry.timeline, begin: begin(index), end });
  }
  return ranges;
}
