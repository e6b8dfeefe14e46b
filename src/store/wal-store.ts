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
import type { WalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { endTogether } from '../base/task-group.ts';
import { Watermark } from '../base/watermark.ts';
import {
  type Lsn,
  type TimelineId,
  advance,
  alignDown,
  distance,
  maxLsn,
  minLsn,
} from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { segmentStart } from '../wal/segment.ts';
import type { WalWalker } from '../wal/walker.ts';
import { BusyWatch } from './busy-watch.ts';
import type { ControlChange, ControlData, ControlFile } from './control-file.ts';
import { FsyncFailed, diskRefusal } from './disk-refusal.ts';
import type { SegmentReader } from './segment-reader.ts';
import { SegmentRemoval } from './segment-removal.ts';
import { SegmentWriter } from './segment-writer.ts';
import type { WalBlocks, WalChunk } from './wal-blocks.ts';
import { WalkStart } from './walk-start.ts';
import { openStored, type StoredWal } from './stored-wal.ts';
import { readStored, rewriteWalked, walkTo } from './wal-recovery.ts';

export const WAL_DIRECTORY = 'pg_wal';

export interface WalStoreOptions {
  disk: Disk;
  clock: Clock;
  log: Log;
  /** The node's directory; the store is its pg_wal. */
  directory: string;
  control: ControlFile;
}

export class WalStore {
  readonly #log: Log;
  readonly #control: ControlFile;
  readonly #writer: SegmentWriter;
  readonly #reader: SegmentReader;
  readonly #blocks: WalBlocks;
  readonly #removal: SegmentRemoval;
  #walker: WalWalker;
  #written: Lsn;
  #flushed: Lsn;
  readonly #served: Watermark<Lsn>;
  readonly #arrived = new Condition();
  readonly #progress = new Condition();
  #failure: WalcadeError | undefined;
  #needsRewind = false;
  /** Where a rewind goes that has begun and not succeeded yet: what lies behind may be gone. */
  #rewindTarget: Lsn | undefined;
  /** An fsync has failed: what was written since the last one may be gone. */
  #lost: FsyncFailed | undefined;
  readonly #busy: BusyWatch;
  readonly #walkStart = new WalkStart();

  private constructor(options: WalStoreOptions, parts: StoredWal) {
    const { walker } = parts;
    const { disk, clock, log, directory, control } = options;
    const { segmentBytes } = control.data;
    this.#log = log;
    this.#busy = new BusyWatch(clock);
    this.#control = control;
    const wal = { disk, clock, log, directory: `${directory}/${WAL_DIRECTORY}`, segmentBytes };
    this.#writer = new SegmentWriter(wal);
    this.#reader = parts.reader;
    this.#blocks = parts.blocks;
    this.#removal = new SegmentRemoval({ ...wal, reader: parts.reader }, parts.oldest);
    this.#walker = walker;
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
    const { timeline, segmentBytes } = data;
    const walDirectory = `${directory}/${WAL_DIRECTORY}`;
    const stored = await openStored(disk, walDirectory, data);
    const { reader, walker } = stored;
    const store = new WalStore(options, stored);
    if (!data.cleanShutdown || walker.received !== data.flushed) {
      await rewriteWalked(store.#writer, readStored(reader, timeline), {
        timeline,
        segmentBytes,
        from: minLsn(data.flushed, walker.received),
        to: walker.received,
      });
      await disk.syncDirectory(walDirectory);
    }
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
    return this.#removal.oldest;
  }

  get received(): Lsn {
    return this.#blocks.end;
  }

  get written(): Lsn {
    return this.#written;
  }

  get flushed(): Lsn {
    return this.#flushed;
  }

  get proven(): Lsn {
    return minLsn(this.#walker.proven, this.received);
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
    return this.#busy.busyMs;
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
      const good = maxLsn(this.received, this.#walker.proven);
      this.#blocks.append(bytes.subarray(0, distance(this.received, good)));
      this.#arrived.notify();
      this.#needsRewind = true;
      throw error;
    }
    this.#blocks.append(bytes);
    this.#arrived.notify();
    this.#walkStart.walked(this.#walker);
  }

  /**
   * Stored WAL from `start` on, up to `end` at most and at least one byte: what one block holds.
   * `end` must not be past `served`. Throws 58P01 for what has been removed.
   */
  read(timeline: TimelineId, start: Lsn, end: Lsn): WalChunk | Promise<WalChunk> {
    assert(start < end && end <= this.#served.value, 'what is read is served');
    return this.#blocks.read(timeline, start, end);
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
    const hasFailed = this.#failure !== undefined;
    const target = hasFailed ? this.#written : this.#walker.proven;
    // After a failed write, whether there is room again is found out by writing the whole segment.
    const zeroEnd = hasFailed ? undefined : this.received;
    this.#rewindTarget = target;
    await this.#update(({ flushed }) => ({ flushed: minLsn(flushed, target) }));
    try {
      await this.#busy.run(() => this.#writer.zeroFrom(this.timeline, target, zeroEnd));
    } catch (error) {
      throw diskRefusal(error, 'write');
    }
    await this.#sync(target);
    const read = readStored(this.#reader, this.timeline);
    const walker = await walkTo(read, this.#control.data, target);
    const head = await this.#blocks.readHead(target);
    this.#walker = walker;
    this.#blocks.rewind(target, head);
    this.#walkStart.rewind();
    this.#written = target;
    this.#flushed = target;
    this.#rewindTarget = undefined;
    this.#failure = undefined;
    this.#needsRewind = false;
    this.#progress.notify();
    this.#arrived.notify();
  }

  /** Resolves once all that was received is durable, or writing has failed. Throws FsyncFailed. */
  async drained(signal: AbortSignal): Promise<void> {
    for (;;) {
      if (this.#lost !== undefined) throw this.#lost;
      if (this.#failure !== undefined || this.#flushed >= this.received) return;
      await this.#progress.wait(signal);
    }
  }

  /** Writes to the control file how far WAL is durable and where the next start walks from. */
  async checkpoint(): Promise<void> {
    const walkFrom = this.#walkStart.lsn;
    await this.#noteFlushed(this.#flushed, () => ({
      checkpointRedo: this.checkpointRedo,
      ...(walkFrom && { walk: { from: walkFrom, startsAt: 'record' } }),
    }));
  }

  /**
   * Removes the segments of all timelines that end at or before `position`, durably; costs nothing
   * when there is none. Throws what the disk refused: the next call tries it anew.
   */
  removeBefore(position: Lsn): Promise<void> {
    return this.#endIfLost(() => this.#removal.removeBefore(position));
  }

  async #write(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#failure !== undefined || this.#written === this.received) {
        await this.#arrived.wait(signal);
        continue;
      }
      try {
        await this.#busy.run(() => this.#writeNext());
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
    const end = minLsn(this.received, segmentEnd);
    const provenBefore = minLsn(this.#walker.proven, end);
    await this.#writer.write(
      this.timeline,
      this.#written,
      this.#blocks.unwritten(this.#written, end),
    );
    this.#written = end;
    // More may have been proven meanwhile than was written: no cut inside a record but at a page.
    const { proven } = this.#walker;
    const safe = proven <= end ? proven : maxLsn(provenBefore, alignDown(end, PAGE_BYTES));
    this.#served.advance(maxLsn(this.#served.value, safe));
    this.#blocks.dropWritten(end);
  }

  async #flush(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#lost !== undefined) throw this.#lost;
      if (this.#flushed === this.#written) {
        await this.#progress.wait(signal);
        continue;
      }
      try {
        await this.#syncTo(this.#written);
      } catch (error) {
        if (error === this.#lost) throw error;
        // The control file was refused: as with WAL, a rewind finds out when it is taken.
        this.#failure = diskRefusal(error, 'write');
        this.#progress.notify();
        await this.#progress.wait(signal);
      }
    }
  }

  async #syncTo(target: Lsn): Promise<void> {
    await this.#sync(target);
    this.#flushed = target;
    this.#walkStart.flushed(this.#walker, target);
    this.#progress.notify();
  }

  /** Makes all that was written, up to `end`, durable. */
  async #sync(end: Lsn): Promise<void> {
    await this.#durably(() => this.#writer.sync());
    // The upstream may remove the segment once its end was reported: no start may need it again.
    if (end % BigInt(this.segmentBytes) === 0n) await this.#noteFlushed(end);
  }

  /** Notes that all before `flushed` is durable: never less than is noted, nor past a rewind. */
  #noteFlushed(flushed: Lsn, changes?: () => Partial<ControlData>): Promise<void> {
    return this.#update((data) => {
      const durable = minLsn(flushed, this.#rewindTarget ?? flushed);
      return { ...changes?.(), flushed: maxLsn(data.flushed, durable) };
    });
  }

  #update(change: ControlChange): Promise<void> {
    return this.#durably(() => this.#control.update(change));
  }

  #durably(action: () => Promise<void>): Promise<void> {
    return this.#endIfLost(() => this.#busy.run(action));
  }

  /** A failed fsync ends `run`, whoever asked: the next one could succeed without the data. */
  async #endIfLost(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      if (error instanceof FsyncFailed) this.#lost = error;
      this.#progress.notify();
      throw error;
    }
  }

  /** At the end of `run`: everything received is written, synced and noted in the control file. */
  async #finish(): Promise<void> {
    try {
      while (this.#failure === undefined && this.#written < this.received) {
        await this.#writeNext();
        await this.#syncTo(this.#written);
      }
      await this.#syncTo(this.#written);
      await this.checkpoint();
      await this.#update(() => ({ cleanShutdown: !this.needsRewind }));
    } catch (error) {
      if (error === this.#lost) throw error;
      this.#log.error(error);
    } finally {
      await this.#writer.close();
      await this.#reader.close();
    }
  }
}
