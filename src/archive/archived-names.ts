/** Under which names an archive may have WAL, and how far each file counts: pure decisions. */
import type { Branch } from '../store/branching.ts';
import { rangesOf } from '../wal/history-parting.ts';
import { type TimelineHistory, ancestorHistory, timelineOf } from '../wal/history.ts';
import { type Lsn, type TimelineId, advance, minLsn } from '../wal/lsn.ts';
import { segmentName, segmentStart } from '../wal/segment.ts';

/** A segment as one timeline has it. Up to `end` it has the history's WAL, its ancestors' too. */
export interface ArchivedName {
  name: string;
  timeline: TimelineId;
  end: Lsn;
}

/**
 * The names of the segment of `position` that have WAL of `history` from there on, the newest
 * timeline's first: it has its ancestors' WAL as well (xlogrecovery.c, XLogFileReadAnyTLI()).
 */
export function namesOfSegment(
  history: TimelineHistory,
  position: Lsn,
  segmentBytes: number,
): ArchivedName[] {
  const segmentEnd = advance(segmentStart(position, segmentBytes), segmentBytes);
  return rangesOf(history)
    .filter(({ begin, end }) => begin < minLsn(end, segmentEnd) && end > position)
    .map(({ timeline, end }) => ({
      name: segmentName(timeline, position, segmentBytes),
      timeline,
      end: minLsn(end, segmentEnd),
    }))
    .toReversed();
}

/** Where `timeline`, one of `history`, is left in it, and for what; undefined for its newest. */
export function branchAfter(history: TimelineHistory, timeline: TimelineId): Branch | undefined {
  if (timeline === history.timeline) return undefined;
  const at = rangesOf(history).find((range) => range.timeline === timeline)?.end;
  if (at === undefined) return undefined;
  return { at, history: ancestorHistory(history, timelineOf(history, at)) };
}
