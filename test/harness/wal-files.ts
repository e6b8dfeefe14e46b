/**
 * WAL in the files of a server under test, a node's or PostgreSQL's: what is compared with what.
 */
import { createHash } from 'node:crypto';
import { open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lsn, type TimelineId, advance, distance, minLsn } from '../../src/wal/lsn.ts';
import { isSegmentName, segmentName, segmentStart } from '../../src/wal/segment.ts';

const READ_BYTES = 1024 * 1024;

export interface StoredRange {
  timeline: TimelineId;
  start: Lsn;
  end: Lsn;
  segmentBytes: number;
}

/** The segments in `pg_wal` of the server in `directory`, by name. */
export async function listSegments(directory: string): Promise<string[]> {
  return (await readdir(join(directory, 'pg_wal'))).filter(isSegmentName).sort();
}

/** The SHA-256 of the WAL from `start` to `end` in `pg_wal` of the server in `directory`. */
export async function digestStored(directory: string, range: StoredRange): Promise<string> {
  const { timeline, start, end, segmentBytes } = range;
  const hash = createHash('sha256');
  for (let position = start; position < end; ) {
    const segment = segmentStart(position, segmentBytes);
    const stop = minLsn(end, advance(segment, segmentBytes));
    const name = segmentName(timeline, position, segmentBytes);
    const path = join(directory, 'pg_wal', name);
    const from = distance(segment, position);
    for await (const piece of readFileRange(path, from, distance(segment, stop))) {
      hash.update(piece);
    }
    position = stop;
  }
  return hash.digest('hex');
}

/** Reads a file from `from` to `to` in pieces; throws if it ends before. */
async function* readFileRange(path: string, from: number, to: number): AsyncGenerator<Buffer> {
  const file = await open(path, 'r');
  try {
    for (let at = from; at < to; ) {
      const buffer = Buffer.alloc(Math.min(READ_BYTES, to - at));
      const { bytesRead } = await file.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) throw new Error(`${path} ends at ${at}, before ${to}`);
      yield buffer.subarray(0, bytesRead);
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}
