/**
 * What a data directory's global/pg_control says: which cluster this is, how its server ended,
 * and from where to where it must replay.
 *
 * The layout is ControlFileData of pg_control.h on little-endian machines. Of the fields read here
 * only 19 has moved some; its version is that of 19rc1, and another one is refused.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { crc32c } from '../wal/crc32c.ts';
import { type Lsn, type TimelineId, lsn, timelineId } from '../wal/lsn.ts';
import { checkSegmentBytes } from '../wal/segment.ts';

/** DBState in the order of pg_control.h, as pg_controldata words them. */
const STATES = [
  'starting up',
  'shut down',
  'shut down in recovery',
  'shutting down',
  'in crash recovery',
  'in archive recovery',
  'in production',
] as const;

export type ControlState = (typeof STATES)[number];

export interface ControlData {
  systemIdentifier: bigint;
  controlVersion: number;
  state: ControlState;
  /** Where the last checkpoint's record starts. */
  checkpoint: Lsn;
  /** Where redo begins after a crash; on the timeline below. */
  redo: Lsn;
  timeline: TimelineId;
  /** A standby is consistent only when it has replayed to here; 0/0 on a primary. */
  minRecoveryPoint: Lsn;
  /** The timeline that it is on; undefined where it is 0/0. */
  minRecoveryTimeline: TimelineId | undefined;
  /** What a hot standby must not have lower, as the primary has it, by parameter. */
  limits: Readonly<Record<(typeof LIMITS)[number], number>>;
  segmentBytes: number;
  /** What pg_rewind needs one of: without them, which pages have changed is not in the WAL. */
  walLogHints: boolean;
  /** Undefined for a version of which it is not known where this stands. */
  dataChecksums: boolean | undefined;
}

/** Where the fields stand that are not at the same place in all versions. */
interface Layout {
  minRecoveryPoint: number;
  segmentBytes: number;
  dataChecksums?: number;
  crc: number;
}

const LAYOUTS: ReadonlyMap<number, Layout> = new Map([
  // 13 to 16, 17, 18, 19rc1.
  [1300, { minRecoveryPoint: 136, segmentBytes: 228, dataChecksums: 252, crc: 288 }],
  [1700, { minRecoveryPoint: 136, segmentBytes: 228, dataChecksums: 252, crc: 288 }],
  [1800, { minRecoveryPoint: 136, segmentBytes: 228, dataChecksums: 252, crc: 292 }],
  [1905, { minRecoveryPoint: 144, segmentBytes: 240, crc: 308 }],
]);

/** Parameters of the primary that follow minRecoveryPoint, in their order. */
const LIMITS = [
  'max_connections',
  'max_worker_processes',
  'max_wal_senders',
  'max_prepared_transactions',
  'max_locks_per_transaction',
] as const;

/** From minRecoveryPoint to its timeline (minRecoveryPointTLI), which is 0 without one. */
const MIN_RECOVERY_TIMELINE_DISTANCE = 8;

/** From minRecoveryPoint to the first of them: its timeline, the backup's bounds, wal_level, … */
const LIMITS_DISTANCE = 44;

/** From minRecoveryPoint to wal_log_hints. */
const HINTS_DISTANCE = 40;

/** All that any version uses; the rest of the file's 8192 bytes are zeros. */
const USED_BYTES_MAX = 312;

/** Nobody writes the file so often that more reads than this all meet a half written one. */
const READS_MAX = 10;

/**
 * Reads the content of a pg_control file; its first 512 bytes are enough. Throws 0A000 for a
 * version whose layout is not known here, XX001 for a wrong checksum or a value that cannot be.
 */
export function parseControlData(bytes: Uint8Array): ControlData {
  if (bytes.length < USED_BYTES_MAX) {
    throw corrupted(`It has ${bytes.length} bytes, at least ${USED_BYTES_MAX} are needed.`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const controlVersion = view.getUint32(8, true);
  const layout = LAYOUTS.get(controlVersion);
  if (layout === undefined) {
    throw new WalcadeError(
      SQLSTATE.FEATURE_NOT_SUPPORTED,
      `pg_control version ${controlVersion} is not supported`,
      { detail: `Versions ${[...LAYOUTS.keys()].join(', ')} are.` },
    );
  }
  if (view.getUint32(layout.crc, true) !== crc32c(bytes.subarray(0, layout.crc))) {
    throw corrupted('Its checksum does not match its content.');
  }
  const stateNumber = view.getUint32(16, true);
  const state = STATES[stateNumber];
  if (state === undefined) throw corrupted(`It has the state ${stateNumber}.`);
  const minRecoveryTimeline = view.getUint32(
    layout.minRecoveryPoint + MIN_RECOVERY_TIMELINE_DISTANCE,
    true,
  );
  return {
    systemIdentifier: view.getBigUint64(0, true),
    controlVersion,
    state,
    checkpoint: lsn(view.getBigUint64(32, true)),
    redo: lsn(view.getBigUint64(40, true)),
    timeline: timelineOf(view.getUint32(48, true)),
    minRecoveryPoint: lsn(view.getBigUint64(layout.minRecoveryPoint, true)),
    minRecoveryTimeline: minRecoveryTimeline === 0 ? undefined : timelineId(minRecoveryTimeline),
    limits: limitsAt(view, layout.minRecoveryPoint + LIMITS_DISTANCE),
    segmentBytes: segmentBytesOf(view.getUint32(layout.segmentBytes, true)),
    walLogHints: view.getUint8(layout.minRecoveryPoint + HINTS_DISTANCE) !== 0,
    dataChecksums:
      layout.dataChecksums === undefined
        ? undefined
        : view.getUint32(layout.dataChecksums, true) !== 0,
  };
}

/**
 * Reads a data directory's pg_control, of a running server too: it is written in place, so that a
 * wrong checksum may be a page half written. Then it is read again for as long as it changes
 * (controldata_utils.c, get_controlfile()). Throws 58P01 if it cannot be opened, else as
 * `parseControlData`.
 */
export async function readControlData(dataDirectory: string): Promise<ControlData> {
  const path = join(dataDirectory, 'global', 'pg_control');
  let last: Buffer | undefined;
  for (let reads = 1; ; reads++) {
    const bytes = await readControlFile(path);
    try {
      return parseControlData(bytes);
    } catch (error) {
      if (reads >= READS_MAX || last?.equals(bytes) === true) throw error;
      last = bytes;
    }
  }
}

async function readControlFile(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `could not open file "${path}" for reading: ${describeSystemError(error)}`,
      { cause: error },
    );
  }
}

function limitsAt(view: DataView, offset: number): ControlData['limits'] {
  const values = LIMITS.map((name, index) => [name, view.getInt32(offset + 4 * index, true)]);
  return Object.fromEntries(values) as ControlData['limits'];
}

function timelineOf(value: number): TimelineId {
  if (value === 0) throw corrupted('It has the timeline 0.');
  return timelineId(value);
}

function segmentBytesOf(value: number): number {
  try {
    checkSegmentBytes(value);
    return value;
  } catch {
    throw corrupted(`It has WAL segments of ${value} bytes.`);
  }
}

function corrupted(detail: string): WalcadeError {
  return new WalcadeError(SQLSTATE.DATA_CORRUPTED, 'pg_control is corrupted', { detail });
}
