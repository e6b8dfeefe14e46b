/**
 * The WAL of one node: received in order, proven, written, made durable, served, and removed.
 *
 *   flushed ≤ written ≤ received        only `rewind` and `branch` take them back
 *   proven ≤ received                   the walker's word: every record before it was checked
 *   served ≤ min(proven, written)       never goes back on a timeline; rests at a record's end, a
 *                                       page boundary, or where the timeline begins
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
import { type TimelineHistory, beginOf, fileTimelineOf } from '../wal/history.ts';
import { type Lsn, type TimelineId, distance, maxLsn, minLsn } from '../wal/lsn.ts';
import type { WalWalker } from '../wal/walker.ts';
import { type Branch, makeBranch } from './branching.ts';
import type { ControlFile } from './control-file.ts';
import { DiskGuard } from './disk-guard.ts';
import { diskRefusal } from './disk-refusal.ts';
import { servedEnd } from './served-end.ts';
import type { SegmentReader } from './segment-reader.ts';
import type { SegmentRemoval } from './segment-removal.ts';
import type { SegmentWriter } from './segment-writer.ts';
import type { WalBlocks, WalChunk } from './wal-blocks.ts';
import { StoreNotes } from './store-notes.ts';
import { WalkStart } from './walk-start.ts';
import { openStored, type StoredWal } from './stored-wal.ts';
import { type ReadWal, readStored, walkTo } from './wal-recovery.ts';
import { writeEnd } from './write-end.ts';

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
  readonly #notes: StoreNotes;
  readonly #writer: SegmentWriter;
  readonly #reader: SegmentReader;
  readonly #blocks: WalBlocks;
  readonly #removal: SegmentRemoval;
  #walker: WalWalker;
  #written: Lsn;
  #flushed: Lsn;
  #history: TimelineHistory;
  #served: Watermark<Lsn>;
  readonly #arrived = new Condition();
  /** Notified when there is something to sync. */
  readonly #wrote = new Condition();
  /** Notified whenever `written`, `flushed` or `failure` has changed. */
  readonly progress = new Condition();
  /** Notified when the store goes on with another timeline. */
  readonly branched = new Condition();
  #failure: WalcadeError | undefined;
  #needsRewind = false;
  readonly #disk: DiskGuard;
  readonly #walkStart = new WalkStart();
  readonly #read: ReadWal;

  private constructor(options: WalStoreOptions, parts: StoredWal) {
    const { walker, history, reader, writer, blocks, removal } = parts;
    this.#log = options.log;
    this.#disk = new DiskGuard(options.clock, () => this.#wasLost());
    this.#notes = new StoreNotes(options.control, this.#disk);
    this.#read = readStored(reader, () => this.#history);
    this.#writer = writer;
    this.#reader = reader;
    this.#blocks = blocks;
    this.#removal = removal;
    this.#walker = walker;
    this.#written = walker.received;
    this.#flushed = walker.received;
    this.#history = history;
    this.#served = new Watermark(this.#settled);
  }

  /** Opens the store of a node that is not running; throws what openStored() throws. */
  static async open(options: WalStoreOptions): Promise<WalStore> {
    const { disk, clock, log, control } = options;
    const directory = `${options.directory}/${WAL_DIRECTORY}`;
    const wal = { disk, clock, log, directory, segmentBytes: control.data.segmentBytes };
    return new WalStore(options, await openStored(wal, control));
  }

  /** The timeline that WAL is received on. */
  get timeline(): TimelineId {
    return this.#history.timeline;
  }

  /** Its history: by it all WAL that is stored is found and read. */
  get history(): TimelineHistory {
    return this.#history;
  }

  get segmentBytes(): number {
    return this.#notes.data.segmentBytes;
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

  /** How far the current timeline is served: another Watermark after each `branch`. */
  get served(): Watermark<Lsn> {
    return this.#served;
  }

  /** Redo pointer of the newest checkpoint record that was received. */
  get checkpointRedo(): Lsn | undefined {
    return this.#walker.lastCheckpoint?.redo ?? this.#notes.data.checkpointRedo;
  }

  /** Where a start would begin to walk now. */
  get walkFrom(): Lsn {
    return this.#notes.data.walk.from;
  }

  /** Why writing stopped, if it has; `rewind` tries again. */
  get failure(): WalcadeError | undefined {
    return this.#failure;
  }

  /** The stream broke off in a way that only `rewind` mends. */
  get needsRewind(): boolean {
    return this.#needsRewind || this.#failure !== undefined;
  }

  /** How long it takes. */
  get diskTimes(): Pick<DiskGuard, 'busyMs' | 'syncMs'> {
    return this.#disk;
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
   * `end` must not be past what is or was served in that history: the WAL of a branch that was left
   * stays as it was. Throws 58P01 for what has been removed.
   */
  read(history: TimelineHistory, start: Lsn, end: Lsn): WalChunk | Promise<WalChunk> {
    assert(start < end, 'there is something to read');
    return this.#blocks.read(fileTimelineOf(history, start, this.segmentBytes), start, end);
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
    const target = hasFailed ? this.#written : this.#settled;
    // After a failed write, whether there is room again is found out by writing the whole segment.
    const zeroEnd = hasFailed ? undefined : this.received;
    await this.#notes.goBack(target, ({ flushed }) => ({ flushed: minLsn(flushed, target) }));
    try {
      await this.#disk.run(() => this.#writer.zeroFrom(this.timeline, target, zeroEnd));
    } catch (error) {
      throw diskRefusal(error, 'write');
    }
    await this.#sync(target);
    const walker = await walkTo(this.#read, this.#notes.data, target);
    this.#goOn(walker, await this.#blocks.readHead(this.timeline, target));
  }

  /**
   * Goes on with another timeline where its history parts from this one's. No stream may be
   * appending. All before it must be stored here: else 58P01 or 22023, and nothing has changed.
   * WAL of the old timeline past it stays in its files; it is served no more.
   */
  async branch(branch: Branch, signal: AbortSignal): Promise<void> {
    await this.drained(signal);
    if (this.#failure !== undefined) throw this.#failure;
    await this.#removal.pausedFor(async () => {
      const { history, at } = branch;
      const { oldest, received } = this;
      const doors = { writer: this.#writer, reader: this.#reader, disk: this.#disk };
      const stored = { oldest, received, read: this.#read, control: this.#notes.data };
      const made = await makeBranch(branch, { ...doors, ...stored });
      const head = await this.#blocks.readHead(history.timeline, at);
      // Until the control file says so the store is where it was: a rewind takes it up there.
      this.#needsRewind = true;
      await this.#notes.goBack(at, made.change);
      this.#history = history;
      this.#served = new Watermark(at);
      this.#goOn(made.walker, head);
    });
    this.branched.notify();
  }

  /** Takes note of the timeline's ancestors, which a new store learns from its upstream. */
  learnHistory(history: TimelineHistory): void {
    assert(history.timeline === this.timeline, 'it is the history of the own timeline');
    if (this.#history.entries.length === 0) this.#history = history;
  }

  /** What is proven, and all before the timeline begins: a new store may not have come so far. */
  get #settled(): Lsn {
    const begin = beginOf(this.#history);
    return begin > this.received ? this.proven : maxLsn(this.proven, begin);
  }

  /** Takes the stream up where `walker` has come to; `head` is the WAL before it in its block. */
  #goOn(walker: WalWalker, head: Buffer): void {
    const { received } = walker;
    this.#walker = walker;
    this.#blocks.goOn(this.timeline, received, head);
    this.#walkStart.rewind(received);
    this.#written = received;
    this.#flushed = received;
    this.#notes.wentBack();
    this.#failure = undefined;
    this.#needsRewind = false;
    this.progress.notify();
    this.#arrived.notify();
  }

  /** Resolves once all that was received is durable, or writing has failed. Throws FsyncFailed. */
  async drained(signal: AbortSignal): Promise<void> {
    for (;;) {
      if (this.#disk.lost !== undefined) throw this.#disk.lost;
      if (this.#failure !== undefined || this.#flushed >= this.received) return;
      await this.progress.wait(signal);
    }
  }

  /** Writes to the control file how far WAL is durable and where the next start walks from. */
  async checkpoint(): Promise<void> {
    const flushed = (): Lsn => this.#flushed;
    await this.#notes.flushed(flushed, () => {
      const walkFrom = this.#walkStart.lsn;
      return {
        checkpointRedo: this.checkpointRedo,
        ...(walkFrom && { walk: { from: walkFrom, startsAt: 'record' } }),
      };
    });
  }

  /**
   * Removes the segments of all timelines that end at or before `position`, durably; costs nothing
   * when there is none. Throws what the disk refused: the next call tries it anew.
   */
  removeBefore(position: Lsn): Promise<void> {
    return this.#disk.durably(() => this.#removal.removeBefore(position));
  }

  async #write(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#failure !== undefined || this.#written === this.received) {
        await this.#arrived.wait(signal);
        continue;
      }
      try {
        await this.#disk.run(() => this.#writeNext());
      } catch (error) {
        this.#failure = diskRefusal(error, 'write');
        this.progress.notify();
      }
      if (this.#written % BigInt(this.segmentBytes) !== 0n) continue;
      while (this.#flushed < this.#written) await this.progress.wait(signal);
    }
  }

  /** Writes the next of what was received. */
  async #writeNext(): Promise<void> {
    const end = writeEnd(this.#written, this.received, this.segmentBytes);
    const provenBefore = this.#walker.proven;
    const unwritten = this.#blocks.unwritten(this.#written, end);
    await this.#writer.write(this.timeline, this.#written, unwritten);
    this.#written = end;
    // The sync begins before anything is done with the WAL: it takes longer than that.
    this.#wrote.notify();
    const served = servedEnd(end, { proven: this.#walker.proven, provenBefore });
    this.#served.advance(maxLsn(this.#served.value, served));
    this.#blocks.dropWritten(end);
    this.progress.notify();
  }

  async #flush(signal: AbortSignal): Promise<void> {
    for (;;) {
      signal.throwIfAborted();
      if (this.#disk.lost !== undefined) throw this.#disk.lost;
      if (this.#flushed === this.#written) {
        await this.#wrote.wait(signal);
        continue;
      }
      try {
        await this.#syncTo(this.#written);
      } catch (error) {
        if (error === this.#disk.lost) throw error;
        // The control file was refused: as with WAL, a rewind finds out when it is taken.
        this.#failure = diskRefusal(error, 'write');
        this.progress.notify();
        await this.progress.wait(signal);
      }
    }
  }

  #wasLost(): void {
    this.#wrote.notify();
    this.progress.notify();
  }

  async #syncTo(target: Lsn): Promise<void> {
    await this.#sync(target);
    this.#flushed = target;
    this.#walkStart.flushed(this.#walker, target);
    this.progress.notify();
  }

  /** Makes all that was written, up to `end`, durable. */
  async #sync(end: Lsn): Promise<void> {
    await this.#disk.durably(() => this.#writer.sync());
    // The upstream may remove the segment once its end was reported: no start may need it again.
    if (end % BigInt(this.segmentBytes) === 0n) await this.#notes.flushed(() => end);
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
      await this.#notes.change(() => ({ cleanShutdown: !this.needsRewind }));
    } catch (error) {
      if (error === this.#disk.lost) throw error;
      this.#log.error(error);
    } finally {
      await this.#writer.close();
      await this.#reader.close();
    }
  }
}
