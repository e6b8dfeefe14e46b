/**
 * Walks of made WAL that must end the same in one piece and byte by byte.
 *
 * The WAL begins at the segment 0/100000 of 1 MB if nothing else is said.
 */
import assert from 'node:assert/strict';
import { parseLsn, type Lsn } from '../../src/wal/lsn.ts';
import { WalWalker, type WalWalkerOptions } from '../../src/wal/walker.ts';
import {
  bitwiseCrc32c,
  buildWalWithPositions,
  type BuiltWal,
  type RecordToBuild,
  type WalToBuild,
} from './wal-builder.ts';

export const MB = 1024 * 1024;
export const START = parseLsn('0/100000');
export const CLUSTER = 7301n;

export function made(
  records: readonly RecordToBuild[],
  options: Partial<WalToBuild> = {},
): BuiltWal {
  return buildWalWithPositions({
    segmentBytes: MB,
    start: START,
    timeline: 1,
    systemIdentifier: CLUSTER,
    records,
    ...options,
  });
}

export function walkerAt(start: Lsn, options: Partial<WalWalkerOptions> = {}): WalWalker {
  return new WalWalker({ segmentBytes: MB, start, startsAt: 'segment', ...options });
}

/** Pushes `wal` in one piece, and byte by byte; both must prove the same. */
export function walk(
  wal: Buffer,
  start: Lsn = START,
  options: Partial<WalWalkerOptions> = {},
): WalWalker {
  const whole = walkerAt(start, options);
  whole.push(wal);
  const bytes = walkerAt(start, options);
  for (let at = 0; at < wal.length; at++) bytes.push(wal.subarray(at, at + 1));
  assert.equal(bytes.proven, whole.proven);
  assert.equal(bytes.provenRecordStart, whole.provenRecordStart);
  assert.deepEqual(bytes.openRecord, whole.openRecord);
  return whole;
}

/** `wal` must be refused, in one piece and byte by byte alike; gives the walker that did. */
export function refuse(
  wal: Buffer,
  expected: { message: string; lsn: Lsn; proven: Lsn },
  { start = START, ...options }: Partial<WalWalkerOptions> = {},
): void {
  const { message, proven } = expected;
  for (const chunkBytes of [wal.length, 1]) {
    const walker = walkerAt(start, options);
    const pushAll = () => {
      for (let at = 0; at < wal.length; at += chunkBytes) {
        walker.push(wal.subarray(at, at + chunkBytes));
      }
    };
    assert.throws(pushAll, { sqlstate: 'XX001', message, lsn: expected.lsn });
    assert.equal(walker.proven, proven);
    assert.equal(walker.openRecord, undefined);
    assert.throws(() => walker.push(Buffer.alloc(1)), { message });
  }
}

/** A record's header again sealed, after a test changed what the CRC covers. */
export function seal(wal: Buffer, at: number): void {
  const record = wal.subarray(at, at + wal.readUInt32LE(at));
  const covered = Buffer.concat([record.subarray(24), record.subarray(0, 20)]);
  wal.writeUInt32LE(bitwiseCrc32c(covered), at + 20);
}
