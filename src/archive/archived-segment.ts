/**
 * A segment that the archive has brought, for as long as it is used: compared with what is stored,
 * walked to find how far it is WAL, and taken into the store.
 */
import type { DiskFile } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { WalStore } from '../store/wal-store.ts';
import { WalCorruption } from '../wal/corruption.ts';
import { type TimelineHistory, isInHistory } from '../wal/history.ts';
import { type Lsn, advance, distance, formatLsn, maxLsn, minLsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import type { WalWalker } from '../wal/walker.ts';
import type { ArchivedName } from './archived-names.ts';

const READ_BYTES = 1024 * 1024;
/** So much may be waiting for the disk. */
const BACKLOG_BYTES_MAX = 8 * 1024 * 1024;

/** Where the WAL of a file ends, and what is wrong there; nothing if the file ends there. */
export interface WalEnd {
  end: Lsn;
  wrong: WalCorruption | undefined;
}

export class ArchivedSegment {
  readonly #file: DiskFile;
  readonly #named: ArchivedName;
  readonly #start: Lsn;
  readonly #buffer = Buffer.allocUnsafe(READ_BYTES);

  /** The file of the segment that contains `position`. */
  constructor(
    file: DiskFile,
    named: ArchivedName,
    { position, segmentBytes }: { position: Lsn; segmentBytes: number },
  ) {
    this.#file = file;
    this.#named = named;
    this.#start = segmentStart(position, segmentBytes);
  }

  /** Throws 55000 unless the file has what downstreams were given of this segment. */
  async checkSame(store: WalStore): Promise<void> {
    const end = minLsn(store.served.value, this.#named.end);
    for (let at = maxLsn(this.#start, store.oldest); at < end; ) {
      const chunk = await store.read(store.history, at, end);
      try {
        const bytes = await this.#read(at, chunk.bytes.length);
        const index = chunk.bytes.findIndex((byte, i) => byte !== bytes[i]);
        if (index >= 0) throw differs(this.#named.name, advance(at, index));
      } finally {
        chunk.release();
      }
      at = advance(at, chunk.bytes.length);
    }
  }

  /**
   * Walks on from where `walker` is, up to where the file counts. Throws XX001 if it has pages of a
   * timeline that is not in `history`.
   */
  async walk(walker: WalWalker, history: TimelineHistory): Promise<WalEnd> {
    const { end } = this.#named;
    while (walker.received < end) {
      const bytes = await this.#read(walker.received, distance(walker.received, end));
      const wrong = push(walker, bytes);
      this.#checkTimeline(walker, history);
      if (wrong !== undefined) return { end: walker.proven, wrong };
    }
    return { end, wrong: undefined };
  }

  #checkTimeline({ timeline }: WalWalker, history: TimelineHistory): void {
    if (timeline === undefined || isInHistory(history, timeline)) return;
    throw new WalcadeError(
      SQLSTATE.DATA_CORRUPTED,
      `unexpected timeline ID ${timeline} in WAL file "${this.#named.name}" of the archive`,
      { detail: `Timeline ${timeline} is not in the history of timeline ${history.timeline}.` },
    );
  }

  /** Whether nobody has written at `position`, a multiple of 8: neither a page nor a record. */
  async isUnwritten(position: Lsn): Promise<boolean> {
    return (await this.#read(position, 8)).readBigUInt64LE() === 0n;
  }

  /** Takes what the store has not got into it, up to `end`, at the pace of its disk. */
  async take(store: WalStore, end: Lsn, signal: AbortSignal): Promise<void> {
    while (store.received < end) {
      store.append(await this.#read(store.received, distance(store.received, end)));
      while (distance(store.written, store.received) > BACKLOG_BYTES_MAX) {
        if (store.failure !== undefined) throw store.failure;
        await store.progress.wait(signal);
      }
      signal.throwIfAborted();
    }
  }

  /** Up to `length` bytes at `position`, good until the next read. Throws XX001 past its end. */
  async #read(position: Lsn, length: number): Promise<Buffer> {
    const into = this.#buffer.subarray(0, Math.min(length, READ_BYTES));
    if ((await this.#file.read(into, distance(this.#start, position))) === into.length) return into;
    throw new WalcadeError(
      SQLSTATE.DATA_CORRUPTED,
      `archive file "${this.#named.name}" has become shorter while it was read`,
    );
  }
}

/** What is wrong with the bytes that `walker` was given; undefined if nothing is. */
function push(walker: WalWalker, bytes: Uint8Array): WalCorruption | undefined {
  try {
    walker.push(bytes);
  } catch (error) {
    if (error instanceof WalCorruption) return error;
    throw error;
  }
  return undefined;
}

function differs(name: string, position: Lsn): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `WAL file "${name}" of the archive differs from this node's WAL at ${formatLsn(position)}`,
    {
      detail: 'The two have the same timeline and not the same history. Nothing was overwritten.',
      hint: 'Point restore_command at the archive of the cluster that this node follows.',
    },
  );
}
