/**
 * WAL record headers: 24 bytes, little-endian, as in xlogrecord.h, XLogRecord.
 *
 *   0 total length   4 xid   8 prev   16 info   17 resource manager   20 CRC
 *
 * Only what the walker must know of a record's meaning is here: where a segment was switched and
 * where the last checkpoint is.
 */
import type { Lsn, TimelineId } from './lsn.ts';
import { lsn, timelineId } from './lsn.ts';

/** SizeOfXLogRecord: the shortest record. */
export const RECORD_HEADER_BYTES = 24;

/** Where the CRC is in the header: what comes before it is protected after the body. */
export const RECORD_CRC_OFFSET = 20;

/** What a record is to the walker. */
export const RECORD_KIND = { OTHER: 0, SWITCH: 1, CHECKPOINT: 2 } as const;

export type RecordKind = (typeof RECORD_KIND)[keyof typeof RECORD_KIND];

/** The start of a checkpoint's body up to its timeline: data header, redo LSN, timeline. */
export const CHECKPOINT_HEAD_BYTES = 2 + 8 + 4;

export interface Checkpoint {
  /** Where its record starts. */
  readonly start: Lsn;
  /** Where recovery would begin. */
  readonly redo: Lsn;
  readonly timeline: TimelineId;
}

const XLOG_RESOURCE_MANAGER = 0;
const RESOURCE_MANAGER_INFO = 0xf0;
const CHECKPOINT_SHUTDOWN = 0x00;
const CHECKPOINT_ONLINE = 0x10;
const SWITCH = 0x40;

/** XLR_BLOCK_ID_DATA_SHORT: main data of up to 255 bytes, as a checkpoint's is. */
const DATA_SHORT = 255;

export function recordKind(resourceManager: number, info: number): RecordKind {
  if (resourceManager !== XLOG_RESOURCE_MANAGER) return RECORD_KIND.OTHER;
  const code = info & RESOURCE_MANAGER_INFO;
  if (code === SWITCH) return RECORD_KIND.SWITCH;
  const isCheckpoint = code === CHECKPOINT_SHUTDOWN || code === CHECKPOINT_ONLINE;
  return isCheckpoint ? RECORD_KIND.CHECKPOINT : RECORD_KIND.OTHER;
}

/**
 * The checkpoint whose record starts at `start` and whose body's first CHECKPOINT_HEAD_BYTES bytes
 * are in `view` from `at` on (pg_control.h, CheckPoint); undefined if they hold something else.
 */
export function decodeCheckpoint(start: Lsn, view: DataView, at: number): Checkpoint | undefined {
  const timeline = view.getUint32(at + 10, true);
  if (view.getUint8(at) !== DATA_SHORT || timeline === 0) return undefined;
  const redo = lsn(view.getBigUint64(at + 2, true));
  return { start, redo, timeline: timelineId(timeline) };
}
