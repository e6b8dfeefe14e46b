/**
 * Writes WAL into segment files under their final names, one segment open at a time.
 *
 * Segments are preallocated with zeros, because an fsync that need not extend the file is several
 * times cheaper. The next one is prepared beside the stream in `pg_wal/xlogtemp` and gets its name
 * when its first byte comes: a final name never stands for a segment that has no WAL.
 *
 *   a segment is left only after `sync`: segment N+1 is not written before N is durable
 *   `sync` covers the directory entry of a segment that is new
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import { type Disk, type DiskFile, removeIfThere } from '../base/disk.ts';
import { systemErrorCode } from '../base/errors.ts';
import { type Lsn, type TimelineId, advance, distance, minLsn } from '../wal/lsn.ts';
import { segmentName, segmentStart } from '../wal/segment.ts';
import { diskRefusal } from './disk-refusal.ts';
import { WRITE_BYTES_MAX } from './write-end.ts';

export const SPARE_SEGMENT = 'xlogtemp';

const ZEROS = Buffer.alloc(WRITE_BYTES_MAX);

export interface SegmentWriterOptions {
  disk: Disk;
  clock: Clock;
  /** pg_wal. */
  directory: string;
  segmentBytes: number;
}

export class SegmentWriter {
  readonly #options: SegmentWriterOptions;
  readonly #disk: Disk;
  readonly #directory: string;
  readonly #segmentBytes: number;
  #current: { name: string; file: DiskFile } | undefined;
  #directoryIsSynced = true;
  #spare: SpareSegment | undefined;

  constructor(options: SegmentWriterOptions) {
    this.#options = options;
    this.#disk = options.disk;
    this.#directory = options.directory;
    this.#segmentBytes = options.segmentBytes;
  }

  /** Writes `buffers` from `position` on; they must not go beyond its segment. */
  async write(timeline: TimelineId, position: Lsn, buffers: readonly Uint8Array[]): Promise<void> {
    const name = segmentName(timeline, position, this.#segmentBytes);
    const offset = distance(segmentStart(position, this.#segmentBytes), position);
    const { file } = this.#current?.name === name ? this.#current : await this.#enter(name);
    await file.write(buffers, offset);
  }

  /** Resolves once all that was written is durable, file and name. Throws FsyncFailed. */
  async sync(): Promise<void> {
    const { file } = this.#current ?? {};
    const directoryIsSynced = this.#directoryIsSynced;
    try {
      await file?.sync();
      if (directoryIsSynced) return;
      await this.#disk.syncDirectory(this.#directory);
    } catch (error) {
      throw diskRefusal(error, 'fsync');
    }
    this.#directoryIsSynced = true;
  }

  /** Fills the segment of `position` with zeros from there to `end`, or to its own end. */
  async zeroFrom(timeline: TimelineId, position: Lsn, end?: Lsn): Promise<void> {
    const start = segmentStart(position, this.#segmentBytes);
    const segmentEnd = advance(start, this.#segmentBytes);
    const zeroEnd = distance(start, minLsn(end ?? segmentEnd, segmentEnd));
    for (let at = distance(start, position); at < zeroEnd; ) {
      const length = Math.min(ZEROS.length, zeroEnd - at);
      await this.write(timeline, (start + BigInt(at)) as Lsn, [ZEROS.subarray(0, length)]);
      at += length;
    }
  }

  /** Closes what is open; what was written but not synced stays so. */
  async close(): Promise<void> {
    const { file } = this.#current ?? {};
    this.#current = undefined;
    await file?.close();
    const spare = this.#spare;
    this.#spare = undefined;
    await spare?.discard();
  }

  async #enter(name: string): Promise<{ name: string; file: DiskFile }> {
    assert(this.#directoryIsSynced, 'the name of a segment is durable before the next one begins');
    const file = (await this.#openExisting(name)) ?? (await this.#nameSpare(name));
    await this.#current?.file.close();
    this.#current = { name, file };
    this.#spare ??= new SpareSegment(this.#options);
    return this.#current;
  }

  async #openExisting(name: string): Promise<DiskFile | undefined> {
    try {
      const file = await this.#disk.open(`${this.#directory}/${name}`, 'write');
      return await atFullSize(file, this.#segmentBytes);
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  async #nameSpare(name: string): Promise<DiskFile> {
    const file = await this.#takeSpare();
    try {
      await this.#disk.rename(`${this.#directory}/${SPARE_SEGMENT}`, `${this.#directory}/${name}`);
    } catch (error) {
      await file.close();
      throw error;
    }
    this.#directoryIsSynced = false;
    return file;
  }

  /** What a spare segment was refused may be long ago: then one is made now. */
  async #takeSpare(): Promise<DiskFile> {
    const spare = this.#spare;
    this.#spare = undefined;
    const file = await spare?.take().catch(() => undefined);
    return file ?? new SpareSegment(this.#options).take();
  }
}

async function atFullSize(file: DiskFile, bytes: number): Promise<DiskFile> {
  try {
    if ((await file.sizeBytes()) < bytes) await file.truncate(bytes);
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/**
 * Zeros are worth their cost only when WAL trickles in and each commit waits for an fsync. After
 * a segment that fills up faster than this comes one whose blocks are allocated as WAL comes.
 */
const FILL_DELAY_MS = 1000;

/** The next segment: filled with zeros after a while, until it is taken or discarded. */
class SpareSegment {
  readonly #disk: Disk;
  readonly #path: string;
  readonly #segmentBytes: number;
  readonly #wanted = new AbortController();
  readonly #filling: Promise<{ file: DiskFile } | { error: unknown }>;

  constructor({ disk, clock, directory, segmentBytes }: SegmentWriterOptions) {
    this.#disk = disk;
    this.#path = `${directory}/${SPARE_SEGMENT}`;
    this.#segmentBytes = segmentBytes;
    const delay = clock.sleep(FILL_DELAY_MS, this.#wanted.signal).catch(() => {});
    this.#filling = delay
      .then(() => this.#fill())
      .then(
        (file) => ({ file }),
        (error: unknown) => ({ error }),
      );
  }

  /** The file at its full size. WAL waits for no zeros: what is not filled yet stays a hole. */
  async take(): Promise<DiskFile> {
    this.#wanted.abort();
    const filled = await this.#filling;
    if ('error' in filled) throw filled.error;
    return atFullSize(filled.file, this.#segmentBytes);
  }

  async discard(): Promise<void> {
    this.#wanted.abort();
    const filled = await this.#filling;
    if ('file' in filled) await filled.file.close();
    await removeIfThere(this.#disk, this.#path);
  }

  async #fill(): Promise<DiskFile> {
    const isWanted = (): boolean => this.#wanted.signal.aborted;
    await removeIfThere(this.#disk, this.#path);
    const file = await this.#disk.open(this.#path, 'create');
    try {
      for (let at = 0; at < this.#segmentBytes && !isWanted(); at += ZEROS.length) {
        await file.write([ZEROS], at);
      }
      if (!isWanted()) await file.sync();
      return file;
    } catch (error) {
      await file.close();
      await removeIfThere(this.#disk, this.#path);
      throw error;
    }
  }
}
