/**
 * Reads stored WAL out of segment files, keeping the files it reads open for the next read.
 *
 * It lives as long as the store. A segment that was removed is reported as PostgreSQL's WAL
 * sender does. A file that is not kept for the next read is closed once nobody reads it.
 */
import type { Disk, DiskFile } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';
import { type Lsn, type TimelineId, distance } from '../wal/lsn.ts';
import { segmentName, segmentStart } from '../wal/segment.ts';

const OPEN_FILES_MAX = 32;

interface OpenSegment {
  readonly file: Promise<DiskFile>;
  readers: number;
}

export class SegmentReader {
  readonly #disk: Disk;
  readonly #directory: string;
  readonly segmentBytes: number;
  readonly #open = new Map<string, OpenSegment>();

  constructor(disk: Disk, directory: string, segmentBytes: number) {
    this.#disk = disk;
    this.#directory = directory;
    this.segmentBytes = segmentBytes;
  }

  /**
   * Reads from `position` into `into`, which must not go beyond the segment; returns the bytes that
   * the file has there. Throws 58P01 when there is no such segment.
   */
  async read(timeline: TimelineId, position: Lsn, into: Uint8Array): Promise<number> {
    const name = segmentName(timeline, position, this.segmentBytes);
    const segment = this.#segment(name);
    segment.readers++;
    try {
      const file = await segment.file;
      return await file.read(into, distance(segmentStart(position, this.segmentBytes), position));
    } catch (error) {
      if (this.#open.get(name) === segment) this.#open.delete(name);
      throw systemErrorCode(error) === 'ENOENT' ? segmentRemoved(name) : error;
    } finally {
      segment.readers--;
      if (this.#open.get(name) !== segment) await closeIfUnused(segment);
    }
  }

  /** A segment was removed: its file is closed, so that its space becomes free. */
  forget(name: string): void {
    const segment = this.#open.get(name);
    if (segment === undefined) return;
    this.#open.delete(name);
    void closeIfUnused(segment);
  }

  async close(): Promise<void> {
    const segments = [...this.#open.values()];
    this.#open.clear();
    await Promise.all(segments.map(closeIfUnused));
  }

  #segment(name: string): OpenSegment {
    let segment = this.#open.get(name);
    if (segment === undefined) {
      segment = { file: this.#disk.open(`${this.#directory}/${name}`, 'read'), readers: 0 };
      this.#closeUnused();
    } else {
      this.#open.delete(name);
    }
    this.#open.set(name, segment);
    return segment;
  }

  #closeUnused(): void {
    for (const [name, segment] of this.#open) {
      if (this.#open.size < OPEN_FILES_MAX) return;
      if (segment.readers > 0) continue;
      this.#open.delete(name);
      void closeIfUnused(segment);
    }
  }
}

/** Closes a file that is not kept any more, unless its last reader will. */
async function closeIfUnused({ file, readers }: OpenSegment): Promise<void> {
  if (readers > 0) return;
  await file.then((opened) => opened.close()).catch(() => {});
}

/** As PostgreSQL says of a segment it no longer has (walsender.c, WalSndSegmentOpen()). */
export function segmentRemoved(name: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.UNDEFINED_FILE,
    `requested WAL segment ${name} has already been removed`,
  );
}
