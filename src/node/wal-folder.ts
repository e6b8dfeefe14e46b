/**
 * A look at any folder of WAL segments, a node's or not: which are there, and whether what they
 * hold proves true. Nothing is changed.
 */
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { type Lsn, type TimelineId, advance, formatLsn, maxLsn } from '../wal/lsn.ts';
import { decodePageHeader } from '../wal/page.ts';
import { checkSegmentBytes, isSegmentName, parseSegmentName, segmentName } from '../wal/segment.ts';
import { WalCorruption, WalWalker } from '../wal/walker.ts';

export interface FoundSegment {
  name: string;
  timeline: TimelineId;
  start: Lsn;
  bytes: number;
}

export interface WalFolder {
  path: string;
  segmentBytes: number;
  systemIdentifier: bigint;
  /** By timeline, then by position. */
  segments: FoundSegment[];
}

/** A run of segments without a gap, and how far the WAL in it proves true. */
export interface VerifiedRun {
  timeline: TimelineId;
  from: Lsn;
  /** End of the last segment of the run. */
  to: Lsn;
  provenTo: Lsn;
  /** What was found where the proof ended, unless that is the run's end. */
  finding: string | undefined;
  /** The proof ends in the run's last segment: the end of WAL, or the damage of a crash. */
  isInLastSegment: boolean;
}

const HEADER_BYTES = 40;
const READ_BYTES = 1024 * 1024;

/** Lists the segments in `path`, or in its pg_wal if it is a node or data directory. */
export async function readWalFolder(path: string): Promise<WalFolder> {
  const inner = join(path, 'pg_wal');
  const isDirectory = await fs.stat(inner).then(
    (stat) => stat.isDirectory(),
    () => false,
  );
  const folder = isDirectory ? inner : path;
  const names = (await list(folder)).filter(isSegmentName).sort();
  const first = names[0];
  if (first === undefined) {
    throw new WalcadeError(SQLSTATE.UNDEFINED_FILE, `no WAL segments in "${folder}"`);
  }
  const { segmentBytes, systemIdentifier } = await readLongHeader(join(folder, first));
  const segments: FoundSegment[] = [];
  for (const name of names) {
    const { size } = await fs.stat(join(folder, name));
    segments.push({ name, ...parseSegmentName(name, segmentBytes), bytes: size });
  }
  return { path: folder, segmentBytes, systemIdentifier, segments };
}

async function list(folder: string): Promise<string[]> {
  try {
    return await fs.readdir(folder);
  } catch (error) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `could not open directory "${folder}": ${describeSystemError(error)}`,
    );
  }
}

async function readLongHeader(
  path: string,
): Promise<{ segmentBytes: number; systemIdentifier: bigint }> {
  const file = await fs.open(path, 'r');
  try {
    const header = Buffer.alloc(HEADER_BYTES);
    await file.read(header, 0, HEADER_BYTES, 0);
    const { segment } = decodePageHeader(new DataView(header.buffer, header.byteOffset));
    if (segment === undefined) throw notWal(path);
    checkSegmentBytes(segment.segmentBytes);
    return segment;
  } finally {
    await file.close();
  }
}

function notWal(path: string): WalcadeError {
  return new WalcadeError(SQLSTATE.DATA_CORRUPTED, `file "${path}" is not a WAL segment`, {
    detail: 'It does not begin with a long page header.',
  });
}

/** Walks every run of segments in the folder. */
export async function* verifyWalFolder(folder: WalFolder): AsyncGenerator<VerifiedRun> {
  let run: FoundSegment[] = [];
  for (const segment of folder.segments) {
    const last = run.at(-1);
    const follows =
      last !== undefined &&
      last.timeline === segment.timeline &&
      advance(last.start, folder.segmentBytes) === segment.start;
    if (last !== undefined && !follows) {
      yield await verifyRun(folder, run);
      run = [];
    }
    run.push(segment);
  }
  if (run.length > 0) yield await verifyRun(folder, run);
}

async function verifyRun(folder: WalFolder, run: readonly FoundSegment[]): Promise<VerifiedRun> {
  const { segmentBytes, systemIdentifier } = folder;
  const first = run[0] as FoundSegment;
  const last = run.at(-1) as FoundSegment;
  const walker = new WalWalker({
    segmentBytes,
    systemIdentifier,
    start: first.start,
    startsAt: 'segment',
  });
  const finding = await walkFiles(folder, run, walker);
  return {
    timeline: first.timeline,
    from: first.start,
    to: advance(last.start, segmentBytes),
    provenTo: walker.proven,
    finding: finding?.text,
    // Of a record over several segments nothing is proven yet in the last ones.
    isInLastSegment: maxLsn(walker.proven, finding?.position ?? walker.proven) >= last.start,
  };
}

interface Finding {
  text: string;
  /** The page or record that is wrong. */
  position: Lsn;
}

async function walkFiles(
  folder: WalFolder,
  run: readonly FoundSegment[],
  walker: WalWalker,
): Promise<Finding | undefined> {
  const buffer = Buffer.allocUnsafe(READ_BYTES);
  for (const { name, bytes, start } of run) {
    if (bytes !== folder.segmentBytes) {
      const wanted = folder.segmentBytes;
      const sizes = `has ${bytes} bytes, ${wanted} are needed`;
      const text = `segment ${name} ${sizes}, at ${formatLsn(start)}`;
      return { text, position: walker.proven };
    }
    const file = await fs.open(join(folder.path, name), 'r');
    try {
      for (let at = 0; at < bytes; ) {
        const { bytesRead } = await file.read(buffer, 0, READ_BYTES, at);
        if (bytesRead === 0) {
          return { text: `segment ${name} ended while it was read`, position: walker.proven };
        }
        walker.push(buffer.subarray(0, bytesRead));
        at += bytesRead;
      }
    } catch (error) {
      if (!(error instanceof WalCorruption)) throw error;
      return { text: error.message, position: error.lsn };
    } finally {
      await file.close();
    }
  }
  return undefined;
}

/** The segments that are missing between the first and the last of each timeline, as ranges. */
export function findGaps({ segments, segmentBytes }: WalFolder): { first: string; last: string }[] {
  const gaps: { first: string; last: string }[] = [];
  for (const [index, { timeline, start }] of segments.entries()) {
    const before = segments[index - 1];
    if (before === undefined || before.timeline !== timeline) continue;
    const expected = advance(before.start, segmentBytes);
    if (expected === start) continue;
    gaps.push({
      first: segmentName(timeline, expected, segmentBytes),
      last: segmentName(timeline, (start - BigInt(segmentBytes)) as Lsn, segmentBytes),
    });
  }
  return gaps;
}
