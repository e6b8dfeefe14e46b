/**
 * The WAL of one node: received in order, proven, written, made durable, served, and removed.
 *
 *   flushed ≤ written ≤ received        within the timeline; only `rewind` takes them back
 *   proven ≤ received                   the walker's word: every record before it was checked
 *   served ≤ min(proven, written)       never goes back; rests at a record's end or a page boundary
 *
 * It lives from `open` to the end of `run`, which writes and syncs until its signal aborts and
 * rejects when an fsync fails: that is never retried, the process has to end. A write that fails
 * stops intake (`failure`) until `rewind` finds that the disk takes writes again.
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { endTogether } from '../base/task-group.ts';
import { Watermark } from '../base/watermark.ts';
import {
  type Lsn,
  type TimelineId,
  advance,
  alignDown,
  distance,
  lsn,
  maxLsn,
  minLsn,
} from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { segmentStart } from '../wal/segment.ts';
import type { WalWalker } from '../wal/walker.ts';
import type { ControlFile } from './control-file.ts';
import { oldestStored, removableSegments } from './segment-catalog.ts';
import { SegmentReader } from './segment-reader.ts';
import { SegmentWriter } from './segment-writer.ts';
import { BLOCK_BYTES, type WalBlock, WalBlockCache } from './wal-block-cache.ts';
import { recoverWalker, walkTo } from './wal-recovery.ts';

export const WAL_DIRECTORY = 'pg_wal';

const CACHE_BYTES = 16 * 1024 * 1024;

/** A piece of stored WAL; its bytes stay as they are until `release`. */
export interface WalChunk {
  readonly bytes: Uint8Array;
  release(): void;
}

export interface WalStoreOptions {
  disk: Disk;
  clock: Clock;
  log: Log;
  /** The node's directory; the store is its pg_wal. */
  directory: string;
  control: ControlFile;
}

export class WalStore {
  readonly #disk: Disk;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #walDirectory: string;
  readonly #control: ControlFile;
  readonly #writer: SegmentWriter;
  readonly #reader: SegmentReader;
  readonly #cache = new WalBlockCache({ capacityBytes: CACHE_BYTES });
  /** The blocks from the first unwritten byte to the end of what was received, pinned. */
  #live: WalBlock[] = [];
  #walker: WalWalker;
  #oldest: Lsn;
  #received: Lsn;
  #written: Lsn;
  #flushed: Lsn;
  readonly #served: Watermark<Lsn>;
  readonly #arrived = new Condition();
  readonly #progress = new Condition();
  #failure: WalcadeError | undefined;
  #needsRewind = false;
  /** An fsync has failed: what was written since the last one may be gone. */
  #lost: WalcadeError | undefined;
  readonly #running = new Set<{ startMs: number }>();
  /** A proven record that becomes the next start's first one once it is durable. */
  #candidate: { start: Lsn; end: Lsn } | undefined;
  #walkFrom: Lsn | undefined;

  private constructor(options: WalStoreOptions, walker: WalWalker, oldest: Lsn) {
    const { disk, clock, log, directory, control } = options;
    const { segmentBytes } = control.data;
    this.#disk = disk;
    this.#clock = clock;
    this.#log = log;
    this.#walDirectory = `${directory}/${WAL_DIRECTORY}`;
    this.#control = control;
    this.#writer = new SegmentWriter({
      disk,
      clock,
      directory: this.#walDirectory,
      segmentBytes,
    });
    this.#reader = new SegmentReader(disk, this.#walDirectory, segmentBytes);
    this.#oldest = oldest;
    this.#walker = walker;
    this.#received = walker.received;
    this.#written = walker.received;
    this.#flushed = walker.received;
    this.#served = new Watermark(walker.proven);
  }

  /**
   * Opens the store of a node that is not running: walks from the control file's record, makes
   * what it walked durable, and clears what follows. Throws XX001 if acknowledged WAL is lost.
   */
  static async open(options: WalStoreOptions): Promise<WalStore> {
    const { disk, directory, control } = options;
    const { data } = control;
    const reader = new SegmentReader(disk, `${directory}/${WAL_DIRECTORY}`, data.segmentBytes);
    let walker: WalWalker;
    try {
      walker = await recoverWalker(readStored(reader, data.timeline), data);
    } finally {
      await reader.close();
    }
    const names = await disk.list(`${directory}/${WAL_DIRECTORY}`);
    const { timeline, segmentBytes } = data;
    const oldest = oldestStored(names, { timeline, received: walker.received, segmentBytes });
    const store = new WalStore(options, walker, oldest);
    await store.#loadHead();
    if (!data.cleanShutdown || walker.received !== data.flushed) await store.#makeDurable();
    await control.update({ flushed: walker.received, cleanShutdown: false });
    return store;
  }

  get timeline(): TimelineId {
    return this.#control.data.timeline;
  }

  get segmentBytes(): number {
    return this.#control.data.segmentBytes;
  }

  /** The oldest WAL that is stored: a segment's start. */
  get oldest(): Lsn {
    return this.#oldest;
  }

  get received(): Lsn {
    return this.#received;
  }

  get written(): Lsn {
    return this.#written;
  }

  get flushed(): Lsn {
    return this.#flushed;
  }

  get proven(): Lsn {
    return minLsn(this.#walker.proven, this.#received);
  }

  get served(): Watermark<Lsn> {
    return this.#served;
  }

  /** Redo pointer of the newest checkpoint record that was received. */
  get checkpointRedo(): Lsn | undefined {
    return this.#walker.lastCheckpoint?.redo ?? this.#control.data.checkpointRedo;
  }

  /** Where a start would begin to walk now. */
  get walkFrom(): Lsn {
    return this.#control.data.walk.from;
  }

  /** Notified whenever `written`, `flushed` or `failure` has changed. */
  get progress(): Condition {
    return this.#progress;
  }

  /** Why writing stopped, if it has; `rewind` tries again. */
  get failure(): WalcadeError | undefined {
    return this.#failure;
  }

  /** The stream broke off in a way that only `rewind` mends. */
  get needsRewind(): boolean {
    return this.#needsRewind || this.#failure !== undefined;
  }

  /** For how long the oldest write or sync that runs now has been running, in milliseconds. */
  get busyMs(): number {
    let busyMs = 0;
    for (const { startMs } of this.#running) {
      busyMs = Math.max(busyMs, this.#clock.monotonicMs() - startMs);
    }
    return busyMs;
  }

  /**
   * Takes the next bytes of the stream. What proves wrong is not taken (throws WalCorruption, after
   * which only `rewind` makes the store take more), nor anything while `failure` is set.
   */
  append(bytes: Uint8Array): void {
    if (this.#failure !== undefined) throw this.#failure;
    try {
      this.#walker.push(bytes);
    } catch (error) {
      const good = maxLsn(this.#received, this.#walker.proven);
      this.#take(bytes.subarray(0, distance(this.#received, good)));
      this.#needsRewind = true;
      throw error;
    }
    this.#take(bytes);
    const { provenRecordStart, proven } = this.#walker;
    if (this.#candidate === undefined && provenRecordStart !== undefined) {
      this.#candidate = { start: provenRecordStart, end: proven };
    }
  }

  /**
   * Stored WAL from `start` on, up to `end` at most and at least one byte: what one block holds.
   * `end` must not be past `served`. Throws 58P01 for what has been removed.
   */
  read(timeline: TimelineId, start: Lsn, end: Lsn): WalChunk | Promise<WalChunk> {
    assert(start < end && end <= this.#served.value, 'what is read is served');
    const number = Number(start / BigInt(BLOCK_BYTES));
    const block = this.#cache.find(timeline, number);
    if (block !== undefined) return this.#chunk(block, start, end);
    const position = alignDown(start, BLOCK_BYTES);
    return this.#cache
      .load(timeline, number, (bytes) => this.#reader.read(timeline, position, bytes))
      .then((loaded) => this.#chunk(loaded, start, end));
  }

  /** Writes and syncs what arrives until `signal` aborts; then all that was received is durable. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      await endTogether(signal, [(s) => this.#write(s), (s) => this.#flush(s)]);
    } catch (error) {
      if (error !== signal.reason) throw error;
    }
    await this.#finish();
  }

  /**
   * Goes back to the end of the last proven record, or to what was written if writing has failed,
   * so that the stream can be taken up from `received` again. No stream may be appending. Throws
   * what the disk still answers if it does not take writes.
   */
  async rewind(signal: AbortSignal): Promise<void> {
    await this.drained(signal);
    const target = this.#failure === undefined ? this.#walker.proven : this.#written;
    try {
      await this.#control.update({ flushed: minLsn(this.#control.data.flushed, target) });
      await this.#writer.zeroFrom(this.timeline, target);
    } catch (error) {
      throw diskRefusal(error, 'write');
    }
    await this.#sync();
    const read = readStored(this.#reader, this.timeline);
    this.#walker = await walkTo(read, this.#control.data, target);
    this.#cache.forgetFrom(this.timeline, Number(target / BigInt(BLOCK_BYTES)));
    this.#live = [];
    this.#candidate = undefined;
    this.#received = target;
    this.#written = target;
    this.#flushed = target;
    await this.#loadHead();
    this.#failure = undefined;
    this.#needsRewind = false;
    this.#progress.notify();
    this.#arrived.notify();
  }

  /** Resolves once all that was received is durable, or writing has failed. */
  async drained(signal: AbortSignal): Promise<void> {
    while (this.#failure === undefined && this.#flushed < this.#received) {
      await this.#progress.wait(signal);
    }
  }

  /** Writes to the control file how far WAL is durable and where the next start walks from. */
  async checkpoint(): Promise<void> {
    const walkFrom = this.#walkFrom;
    await this.#control.update({
      flushed: this.#flushed,
      checkpointRedo: this.checkpointRedo,
      ...(walkFrom === undefined ? {} : { walk: { from: walkFrom, startsAt: 'record' } }),
    });
  }

  /**
   * Removes the segments of all timelines that end at or before `position`, the oldest first and
   * each durably, so that a power cut leaves no gap.
   */
  async removeBefore(position: Lsn): Promise<void> {
    const { segmentBytes } = this;
    const kept = segmentStart(position, segmentBytes);
    if (kept <= this.#oldest) return;
    this.#oldest = kept;
    const names = await this.#disk.list(this.#walDirectory);
    for (const name of removableSegments(names, kept, segmentBytes)) {
      await this.#disk.remove(`${this.#walDirectory}/${name}`);
      await this.#disk.syncDirectory(this.#walDirectory);
    }
  }

  #chunk(block: WalBlock, start: Lsn, end: Lsn): WalChunk {
    const blockStart = blockStartOf(block.number);
    const from = distance(blockStart, start);
    const to = Math.min(distance(blockStart, end), BLOCK_BYTES);
    assert(to <= block.filled, 'what is served is in its block');
    let isReleased = false;
    return {
      bytes: block.bytes.subarray(from, to),
      release: () => {
        assert(!isReleased, 'a chunk is released once');
        isReleased = true;
        this.#cache.unpin(block);
      },
    };
  }

  /** Copies `bytes` behind what was received. */
  #take(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const head = this.#head();
      const length = Math.min(bytes.length - done, BLOCK_BYTES - head.filled);
      head.bytes.set(bytes.subarray(done, done + length), head.filled);
      head.filled += length;
      done += length;
      this.#received = advance(this.#received, length);
    }
    this.#arrived.notify();
  }

  #head(): WalBlock {
    const number = Number(this.#received / BigInt(BLOCK_BYTES));
    const last = this.#live.at(-1);
    if (last?.number === number) return last;
    const block = this.#cache.create(this.timeline, number);
    this.#live.push(block);
    return block;
  }

  /** Puts the block that `received` lies in into memory, as far as it is stored. */
  async #loadHead(): Promise<void> {
    const start = alignDown(this.#received, BLOCK_BYTES);
    const length = distance(start, this.#received);
    if (length === 0) return;
    const block = this.#head();
    block.filled = await readStored(this.#reader, this.timeline)(
      start,
      block.bytes.subarray(0, length),
    );
    assert(block.filled === length, 'what was walked can be read');
  }

  /** After a crash: what was walked is written again and synced, what follows it is cleared. */
  async #makeDurable(): Promise<void> {
    const { timeline, segmentBytes } = this;
    const end = this.#received;
    const block = Buffer.allocUnsafe(BLOCK_BYTES);
    const read = readStored(this.#reader, timeline);
    let at = alignDown(minLsn(this.#control.data.flushed, end), BLOCK_BYTES);
    while (at < end) {
      const length = Math.min(BLOCK_BYTES, distance(at, end));
      await read(at, block.subarray(0, length));
      await this.#writer.write(timeline, at, [block.subarray(0, length)]);
      at = advance(at, length);
      if (at % BigInt(segmentBytes) === 0n) await this.#writer.sync();
    }
    if (end % BigInt(segmentBytes) !== 0n) await this.#writer.zeroFrom(timeline, end);
    await this.#writer.sync();
    await this.#disk.syncDirectory(this.#walDirectory);
  }

  async #write(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#failure !== undefined || this.#written === this.#received) {
        await this.#arrived.wait(signal);
        continue;
      }
      try {
        await this.#timed(() => this.#writeNext());
      } catch (error) {
        this.#failure = diskRefusal(error, 'write');
      }
      this.#progress.notify();
      if (this.#written % BigInt(this.segmentBytes) !== 0n) continue;
      while (this.#flushed < this.#written) await this.#progress.wait(signal);
    }
  }

  /** Writes what was received, up to the end of the segment at most. */
  async #writeNext(): Promise<void> {
    const { segmentBytes } = this;
    const segmentEnd = advance(segmentStart(this.#written, segmentBytes), segmentBytes);
    const end = minLsn(this.#received, segmentEnd);
    const provenBefore = minLsn(this.#walker.proven, end);
    await this.#writer.write(this.timeline, this.#written, this.#unwritten(end));
    this.#written = end;
    // More may have been proven meanwhile than was written: no cut inside a record but at a page.
    const { proven } = this.#walker;
    const safe = proven <= end ? proven : maxLsn(provenBefore, alignDown(end, PAGE_BYTES));
    this.#served.advance(maxLsn(this.#served.value, safe));
    this.#dropWritten();
  }

  async #flush(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#lost !== undefined) throw this.#lost;
      if (this.#flushed === this.#written) {
        await this.#progress.wait(signal);
        continue;
      }
      await this.#syncTo(this.#written);
    }
  }

  async #syncTo(target: Lsn): Promise<void> {
    await this.#sync();
    // The upstream may remove the segment once its end was reported: no start may need it again.
    if (target % BigInt(this.segmentBytes) === 0n) await this.#control.update({ flushed: target });
    this.#flushed = target;
    const { provenRecordStart, proven } = this.#walker;
    if (provenRecordStart !== undefined && proven <= target) {
      this.#walkFrom = provenRecordStart;
      this.#candidate = undefined;
    } else if (this.#candidate !== undefined && this.#candidate.end <= target) {
      this.#walkFrom = this.#candidate.start;
      this.#candidate = undefined;
    }
    this.#progress.notify();
  }

  /** A failed fsync ends `run`, whoever asked for it: the next one could succeed without the data. */
  async #sync(): Promise<void> {
    try {
      await this.#timed(() => this.#writer.sync());
    } catch (error) {
      this.#lost = diskRefusal(error, 'fsync');
      this.#progress.notify();
      throw this.#lost;
    }
  }

  /** At the end of `run`: everything received is written, synced and noted in the control file. */
  async #finish(): Promise<void> {
    try {
      while (this.#failure === undefined && this.#written < this.#received) {
        await this.#writeNext();
        await this.#syncTo(this.#written);
      }
      await this.#syncTo(this.#written);
      await this.checkpoint();
      await this.#control.update({ cleanShutdown: this.#failure === undefined });
    } catch (error) {
      if (error === this.#lost) throw error;
      this.#log.error(error);
    } finally {
      await this.#writer.close();
      await this.#reader.close();
    }
  }

  #unwritten(end: Lsn): Uint8Array[] {
    const buffers: Uint8Array[] = [];
    for (const block of this.#live) {
      const start = blockStartOf(block.number);
      if (start >= end) break;
      const from = start >= this.#written ? 0 : distance(start, this.#written);
      const to = Math.min(distance(start, end), BLOCK_BYTES);
      if (from < to) buffers.push(block.bytes.subarray(from, to));
    }
    return buffers;
  }

  #dropWritten(): void {
    while (this.#live.length > 1) {
      const first = this.#live[0] as WalBlock;
      if (blockStartOf(first.number + 1) > this.#written) return;
      this.#live.shift();
      this.#cache.unpin(first);
    }
  }

  async #timed(action: () => Promise<void>): Promise<void> {
    const run = { startMs: this.#clock.monotonicMs() };
    this.#running.add(run);
    try {
      await action();
    } finally {
      this.#running.delete(run);
    }
  }
}

function blockStartOf(number: number): Lsn {
  return lsn(BigInt(number) * BigInt(BLOCK_BYTES));
}

/** Reads at a position up to the end of its block; a segment that is not there has no bytes. */
function readStored(reader: SegmentReader, timeline: TimelineId) {
  return async (position: Lsn, into: Buffer): Promise<number> => {
    try {
      return await reader.read(timeline, position, into);
    } catch (error) {
      if (error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE) return 0;
      throw error;
    }
  };
}

function diskRefusal(error: unknown, action: 'write' | 'fsync'): WalcadeError {
  if (error instanceof WalcadeError) return error;
  const why = describeSystemError(error);
  if (systemErrorCode(error) === 'ENOSPC') {
    return new WalcadeError(SQLSTATE.DISK_FULL, `could not ${action} to WAL: ${why}`, {
      detail: 'The upstream connection is closed until there is room again.',
      hint: 'Free disk space in the node\'s directory, or lower "wal_keep_size".',
      cause: error,
    });
  }
  return new WalcadeError(SQLSTATE.IO_ERROR, `could not ${action} WAL: ${why}`, { cause: error });
}
