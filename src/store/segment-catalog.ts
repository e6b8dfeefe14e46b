/**
 * Which segments a pg_wal holds: pure decisions over its file names.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type TimelineHistory, fileTimelineOf } from '../wal/history.ts';
import { type Lsn, type TimelineId, advance } from '../wal/lsn.ts';
import { isSegmentName, parseSegmentName, segmentName, segmentStart } from '../wal/segment.ts';

/** The starts of the segments of `history` among `names`, oldest first. */
export function segmentStarts(
  names: readonly string[],
  history: TimelineHistory,
  segmentBytes: number,
): Lsn[] {
  return segmentsAmong(names, segmentBytes)
    .filter(({ timeline, start }) => timeline === fileTimelineOf(history, start, segmentBytes))
    .map(({ start }) => start)
    .sort((a, b) => (a < b ? -1 : 1));
}

/**
 * The oldest WAL of `history` among `names`, given that it goes on to `received`; the start of
 * the segment of `received` when there is none. What lies behind it is a branch that was left.
 * Throws 58P01 naming the first segment of a gap.
 */
export function oldestStored(
  names: readonly string[],
  {
    history,
    received,
    segmentBytes,
  }: { history: TimelineHistory; received: Lsn; segmentBytes: number },
): Lsn {
  const starts = segmentStarts(names, history, segmentBytes).filter((start) => start < received);
  const oldest = starts[0] ?? segmentStart(received, segmentBytes);
  const missing = (start: Lsn): WalcadeError => {
    const timeline = fileTimelineOf(history, start, segmentBytes);
    return segmentMissing(segmentName(timeline, start, segmentBytes));
  };
  let expected = oldest;
  for (const start of starts) {
    if (start !== expected) throw missing(expected);
    expected = advance(start, segmentBytes);
  }
  if (expected < received) throw missing(expected);
  return oldest;
}

/** The segments among `names` that lie before `kept`, oldest first: a crash leaves no gap. */
export function removableSegments(
  names: readonly string[],
  kept: Lsn,
  segmentBytes: number,
): string[] {
  return segmentsAmong(names, segmentBytes)
    .filter(({ start }) => start < kept)
    .sort((a, b) => (a.start < b.start ? -1 : 1))
    .map(({ name }) => name);
}

/** A name that no segment of this size has is another file's. */
function segmentsAmong(
  names: readonly string[],
  segmentBytes: number,
): { name: string; timeline: TimelineId; start: Lsn }[] {
  return names.filter(isSegmentName).flatMap((name) => {
    try {
      return [{ name, ...parseSegmentName(name, segmentBytes) }];
    } catch (error) {
      if (error instanceof WalcadeError) return [];
      throw error;
    }
  });
}

function segmentMissing(name: string): WalcadeError {
  return new WalcadeError(SQLSTATE.UNDEFINED_FILE, `WAL segment ${name} is missing from "pg_wal"`, {
    detail: 'Segments before and after it are there.',
    hint: 'Put the segment back, or remove the older ones.',
  });
}
