/**
 * WAL segments: the files of 1 MB to 1 GB that WAL is kept in, and their names.
 *
 * A name means different LSNs for different segment sizes, so every function here takes the size.
 */
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { alignDown, lsn, timelineId, type Lsn, type TimelineId } from './lsn.ts';

const MB = 1024 * 1024;
const GB = 1024 * MB;

/** PostgreSQL's DEFAULT_XLOG_SEG_SIZE: 16 MB. */
export const SEGMENT_BYTES_DEFAULT = 16 * MB;

const SEGMENT_NAME = /^[0-9A-F]{24}$/;

/**
 * Throws 22023 unless `bytes` can be a segment's size: a power of two from 1 MB to 1 GB
 * (xlog_internal.h, IsValidWalSegSize()).
 */
export function checkSegmentBytes(bytes: number): void {
  if (isSegmentBytes(bytes)) return;
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    `invalid WAL segment size (${bytes} bytes)`,
    { detail: 'The WAL segment size must be a power of two between 1 MB and 1 GB.' },
  );
}

/** The first position of the segment that contains `position`. */
export function segmentStart(position: Lsn, segmentBytes: number): Lsn {
  return alignDown(position, segmentBytes);
}

/** The file name of the segment that contains `position` (xlog_internal.h, XLogFileName()). */
export function segmentName(timeline: TimelineId, position: Lsn, segmentBytes: number): string {
  assert(isSegmentBytes(segmentBytes), 'a segment size is a power of two from 1 MB to 1 GB');
  const high = Number(position >> 32n);
  const low = Math.floor(Number(position & 0xffff_ffffn) / segmentBytes);
  return hex8(timeline) + hex8(high) + hex8(low);
}

/** Whether `name` looks like a segment's (xlog_internal.h, IsXLogFileName()). */
export function isSegmentName(name: string): boolean {
  return SEGMENT_NAME.test(name);
}

/**
 * The timeline and first position that a segment's name stands for; throws 22023 for any other
 * name, also for one whose last part is too large for segments of `segmentBytes`.
 */
export function parseSegmentName(
  name: string,
  segmentBytes: number,
): { timeline: TimelineId; start: Lsn } {
  assert(isSegmentBytes(segmentBytes), 'a segment size is a power of two from 1 MB to 1 GB');
  const timeline = Number.parseInt(name.slice(0, 8), 16);
  const high = Number.parseInt(name.slice(8, 16), 16);
  const low = Number.parseInt(name.slice(16), 16);
  if (!isSegmentName(name) || timeline === 0 || low >= (4 * GB) / segmentBytes) {
    throw new WalcadeError(SQLSTATE.INVALID_PARAMETER_VALUE, `invalid WAL file name "${name}"`, {
      detail: `The WAL segment size is ${formatSegmentBytes(segmentBytes)}.`,
    });
  }
  const start = lsn((BigInt(high) << 32n) + BigInt(low) * BigInt(segmentBytes));
  return { timeline: timelineId(timeline), start };
}

/** Reads what `SHOW wal_segment_size` answers (`16MB`, `1GB`); throws 22023 for anything else. */
export function parseSegmentBytes(text: string): number {
  const match = /^([0-9]{1,10})(MB|GB|kB|B)$/.exec(text);
  const units: Record<string, number> = { B: 1, kB: 1024, MB, GB };
  const bytes = Number(match?.[1]) * (units[match?.[2] ?? ''] ?? Number.NaN);
  if (!isSegmentBytes(bytes)) {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `invalid value for parameter "wal_segment_size": "${text}"`,
      { detail: 'The WAL segment size must be a power of two between 1 MB and 1 GB.' },
    );
  }
  return bytes;
}

/** `bytes` as `SHOW wal_segment_size` answers it. */
export function formatSegmentBytes(bytes: number): string {
  assert(isSegmentBytes(bytes), 'a segment size is a power of two from 1 MB to 1 GB');
  return bytes % GB === 0 ? `${bytes / GB}GB` : `${bytes / MB}MB`;
}

function isSegmentBytes(bytes: number): boolean {
  return bytes >= MB && bytes <= GB && Number.isInteger(Math.log2(bytes));
}

function hex8(value: number): string {
  return value.toString(16).toUpperCase().padStart(8, '0');
}
