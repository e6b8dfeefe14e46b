/**
 * Which segments of each timeline a pg_wal keeps, by its file names alone, and from where on the
 * WAL of a branch has to be walked to see how far it goes.
 */
import { WalcadeError } from '../base/errors.ts';
import { type Lsn, type TimelineId, lsn } from '../wal/lsn.ts';
import { isSegmentName, parseSegmentName, segmentName } from '../wal/segment.ts';

/** The segments of one timeline: one or more. */
export interface KeptSegments {
  readonly first: string;
  readonly last: string;
  readonly count: number;
  readonly bytes: number;
  /** What is missing between the first and the last. */
  readonly gaps: readonly { readonly first: string; readonly last: string }[];
  /** The start of the first segment from which on there is no gap up to the last. */
  readonly runStart: Lsn;
  readonly lastStart: Lsn;
}

/** The segments among `names`, by timeline. One that no segment of this size has is another's. */
export function keptSegments(
  names: readonly string[],
  segmentBytes: number,
): Map<TimelineId, KeptSegments> {
  const kept = new Map<TimelineId, KeptSegments>();
  for (const name of names.filter(isSegmentName).sort()) {
    const segment = parsedName(name, segmentBytes);
    if (segment === undefined) continue;
    const { timeline, start } = segment;
    const before = kept.get(timeline);
    kept.set(
      timeline,
      before === undefined
        ? {
            first: name,
            last: name,
            count: 1,
            bytes: segmentBytes,
            gaps: [],
            runStart: start,
            lastStart: start,
          }
        : { ...before, ...nextSegment(before, { name, ...segment }, segmentBytes) },
    );
  }
  return kept;
}

function nextSegment(
  { lastStart, count, bytes, gaps }: KeptSegments,
  { name, timeline, start }: { name: string; timeline: TimelineId; start: Lsn },
  segmentBytes: number,
): Partial<KeptSegments> {
  const step = BigInt(segmentBytes);
  const next = { last: name, lastStart: start, count: count + 1, bytes: bytes + segmentBytes };
  if (start === lastStart + step) return next;
  const gap = {
    first: segmentName(timeline, lsn(lastStart + step), segmentBytes),
    last: segmentName(timeline, lsn(start - step), segmentBytes),
  };
  return { ...next, gaps: [...gaps, gap], runStart: start };
}

function parsedName(name: string, segmentBytes: number) {
  try {
    return parseSegmentName(name, segmentBytes);
  } catch (error) {
    if (error instanceof WalcadeError) return undefined;
    throw error;
  }
}

/** No record is longer (xlogrecord.h, XLogRecordMaxSize), nor one that was never finished. */
const RECORD_BYTES_MAX = 1024n * 1024n * 1024n;

/** Where a walk begins, as in the control file. */
export interface WalkOrigin {
  from: Lsn;
  startsAt: 'segment' | 'record';
}

/**
 * From where to walk WAL to see how far it goes, given that what lies before `from` is not asked
 * for; undefined where there is none past it. What was left in the middle of a record does not go
 * past the record's start, which is found by walking from there; what is further behind than any
 * record is long is walked from its last segment on.
 */
export function walkToEnd(
  { runStart, lastStart }: KeptSegments,
  from: Lsn,
  segmentBytes: number,
): WalkOrigin | undefined {
  if (from >= lastStart + BigInt(segmentBytes)) return undefined;
  const isNear = lastStart - from <= RECORD_BYTES_MAX;
  // Records start at multiples of 8.
  if (from >= runStart && isNear && from % 8n === 0n) return { from, startsAt: 'record' };
  return { from: isNear ? runStart : lastStart, startsAt: 'segment' };
}
