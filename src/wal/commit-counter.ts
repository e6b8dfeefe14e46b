/**
 * Counts the transactions that WAL commits: what is lost with it if it is discarded.
 *
 * It takes WAL that is proven, from a record's start (or the start of the page before it) on, in
 * chunks that end at page boundaries but for the last, and keeps nothing of it but one record's
 * head. Only commits with a transaction ID count, as others have changed nothing (xact.h).
 */
import { assert } from '../base/assert.ts';
import { PAGE_FLAG } from './formats.ts';
import { type Lsn, distance } from './lsn.ts';
import { PAGE_BYTES, PAGE_HEADER_BYTES, pageHeaderBytes } from './page.ts';
import { RECORD_HEADER_BYTES, RECORD_KIND, recordKind } from './record.ts';
import { checkSegmentBytes, segmentStart } from './segment.ts';

export interface Commits {
  readonly count: number;
  /** When the first and the last was, as a TimestampTz: microseconds since 2000-01-01. */
  readonly firstUs: bigint | undefined;
  readonly lastUs: bigint | undefined;
}

const TRANSACTION_RESOURCE_MANAGER = 1;
const OPERATION = 0x70;
const COMMIT = 0x00;
const COMMIT_PREPARED = 0x30;

/** As much of a record is kept as a commit's time can be in. */
const HEAD_BYTES = RECORD_HEADER_BYTES + 3 + 5 + 5 + 8;

const DATA_SHORT = 255;
const DATA_LONG = 254;

/** How long each part of a commit's body is before its data begin (xlogrecord.h, XLR_BLOCK_ID). */
const PART_HEADER_BYTES: ReadonlyMap<number, number> = new Map([
  [DATA_SHORT, 2],
  [DATA_LONG, 5],
  // The origin and the top-level transaction's ID are wholly before them.
  [253, 3],
  [252, 5],
]);

export class CommitCounter {
  readonly #segmentBytes: number;
  readonly #head = new DataView(new ArrayBuffer(HEAD_BYTES));
  /** From the first segment's start. */
  #position: number;
  #headBytes = 0;
  /** Bytes of the record and its padding that come after what is kept of it. */
  #left = 0;
  /** A switch record was the last: the rest of its segment is nothing. */
  #isSkipping = false;
  #commits: Commits = { count: 0, firstUs: undefined, lastUs: undefined };

  constructor({ start, segmentBytes }: { start: Lsn; segmentBytes: number }) {
    checkSegmentBytes(segmentBytes);
    this.#segmentBytes = segmentBytes;
    this.#position = distance(segmentStart(start, segmentBytes), start);
  }

  get commits(): Commits {
    return this.#commits;
  }

  push(chunk: Uint8Array): void {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (let at = 0; at < chunk.length; ) {
      const bytes = this.#take(view, at);
      this.#position += bytes;
      at += bytes;
      if (this.#position % this.#segmentBytes === 0) this.#isSkipping = false;
    }
  }

  #take(view: DataView, at: number): number {
    const inPage = this.#position % PAGE_BYTES;
    const available = Math.min(view.byteLength - at, PAGE_BYTES - inPage);
    if (this.#isSkipping) return available;
    if (inPage === 0) return this.#enterPage(view, at);
    if (this.#left > 0) return this.#passBy(available);
    const bytes = Math.min(this.#headWanted() - this.#headBytes, available);
    for (let i = 0; i < bytes; i++) {
      this.#head.setUint8(this.#headBytes + i, view.getUint8(at + i));
    }
    this.#headBytes += bytes;
    if (this.#headBytes === this.#headWanted()) this.#endHead();
    return bytes;
  }

  #enterPage(view: DataView, at: number): number {
    assert(view.byteLength - at >= PAGE_HEADER_BYTES, 'a page comes with its whole header');
    const isContinued = (view.getUint16(at + 2, true) & PAGE_FLAG.FIRST_IS_CONTINUATION) !== 0;
    // A crash has taken the rest of a record that was open: another one begins here.
    if (!isContinued) this.#beginRecord();
    return pageHeaderBytes(new DataView(view.buffer, view.byteOffset + at, PAGE_HEADER_BYTES));
  }

  /** How much of the record is kept: its header, and once that is here, as much more as it has. */
  #headWanted(): number {
    if (this.#headBytes < RECORD_HEADER_BYTES) return RECORD_HEADER_BYTES;
    return Math.min(HEAD_BYTES, this.#head.getUint32(0, true));
  }

  #endHead(): void {
    this.#count();
    const length = this.#head.getUint32(0, true);
    this.#left = length + (-length & 7) - this.#headBytes;
    if (this.#left === 0) this.#endRecord();
  }

  #passBy(available: number): number {
    const bytes = Math.min(this.#left, available);
    this.#left -= bytes;
    if (this.#left === 0) this.#endRecord();
    return bytes;
  }

  #endRecord(): void {
    const kind = recordKind(this.#head.getUint8(17), this.#head.getUint8(16));
    this.#isSkipping = kind === RECORD_KIND.SWITCH;
    this.#beginRecord();
  }

  #beginRecord(): void {
    this.#headBytes = 0;
    this.#left = 0;
  }

  #count(): void {
    if (this.#head.getUint8(17) !== TRANSACTION_RESOURCE_MANAGER) return;
    const operation = this.#head.getUint8(16) & OPERATION;
    const hasId = this.#head.getUint32(4, true) !== 0;
    if (operation !== COMMIT_PREPARED && !(operation === COMMIT && hasId)) return;
    const { count, firstUs, lastUs } = this.#commits;
    const timeUs = this.#commitTime();
    this.#commits = { count: count + 1, firstUs: firstUs ?? timeUs, lastUs: timeUs ?? lastUs };
  }

  /** A commit's data begin with its time (xact.h, xl_xact_commit). */
  #commitTime(): bigint | undefined {
    for (let at = RECORD_HEADER_BYTES; at < this.#headBytes; ) {
      const part = this.#head.getUint8(at);
      const headerBytes = PART_HEADER_BYTES.get(part);
      if (headerBytes === undefined) return undefined;
      at += headerBytes;
      if (part !== DATA_SHORT && part !== DATA_LONG) continue;
      return at + 8 <= this.#headBytes ? this.#head.getBigInt64(at, true) : undefined;
    }
    return undefined;
  }
}
