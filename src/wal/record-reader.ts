/**
 * Reads one record after the other that comes in pieces, over pages and chunks, and keeps nothing
 * of it but its header and the start of a checkpoint.
 *
 *   begin ─▶ takeHeader … isHeaderComplete ─▶ checkHeader ─▶ takeBody … ─▶ checkBody ─▶ end
 *
 * A record may be dropped (`end`) at any of these points. Errors have the words of xlogreader.c.
 */
import { assert } from '../base/assert.ts';
import { WalCorruption } from './corruption.ts';
import { CRC32C_START, crc32cFinish, crc32cUpdate } from './crc32c.ts';
import { ANY_RECORD, type WalFormat } from './formats.ts';
import { gather } from './gather.ts';
import { formatLsn, lsn, type Lsn } from './lsn.ts';
import {
  CHECKPOINT_HEAD_BYTES,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_BYTES,
  RECORD_KIND,
  decodeCheckpoint,
  recordKind,
  type Checkpoint,
  type RecordKind,
} from './record.ts';

/** An ordinary record of which the header is complete. */
export interface LentBody {
  readonly start: Lsn;
  /** Bytes of the body that are still to come. */
  readonly left: number;
  /** The CRC in progress, of the bytes before. */
  readonly crc: number;
}

export class RecordReader {
  readonly #header = new DataView(new ArrayBuffer(RECORD_HEADER_BYTES));
  readonly #checkpointHead = new DataView(new ArrayBuffer(CHECKPOINT_HEAD_BYTES));
  #start: Lsn | undefined;
  #headerBytes = 0;
  #bodyBytes = 0;
  #crc = CRC32C_START;

  /** Where the record starts; undefined between records. */
  get start(): Lsn | undefined {
    return this.#start;
  }

  /** The record's length field, once that was taken. */
  get length(): number | undefined {
    return this.#headerBytes < 4 ? undefined : this.#length();
  }

  get isHeaderComplete(): boolean {
    return this.#headerBytes === RECORD_HEADER_BYTES;
  }

  /** Bytes of header and body that are still to come; padding is not counted. */
  get left(): number {
    return this.#length() - this.#headerBytes - this.#bodyBytes;
  }

  /** Bytes of padding after the record. */
  get paddingBytes(): number {
    return -this.#length() & 7;
  }

  get kind(): RecordKind {
    return recordKind(this.#header.getUint8(17), this.#header.getUint8(16));
  }

  /** The checkpoint, if the record, whose body is complete, is one. */
  get checkpoint(): Checkpoint | undefined {
    const isCheckpoint = this.kind === RECORD_KIND.CHECKPOINT;
    if (!isCheckpoint || this.#bodyBytes < CHECKPOINT_HEAD_BYTES) return undefined;
    return decodeCheckpoint(this.#begun(), this.#checkpointHead, 0);
  }

  /** Whether what comes next is the body of a record that means nothing to the walker. */
  get isOrdinaryBody(): boolean {
    return this.isHeaderComplete && this.kind === RECORD_KIND.OTHER;
  }

  begin(start: Lsn): void {
    this.#start = start;
    this.#crc = CRC32C_START;
  }

  end(): void {
    this.#start = undefined;
    this.#headerBytes = 0;
    this.#bodyBytes = 0;
  }

  takeHeader(view: DataView, from: number, to: number): number {
    const bytes = gather(this.#header, this.#headerBytes, view, from, to);
    this.#headerBytes += bytes;
    return bytes;
  }

  /** Throws WalCorruption unless the length can be a record's. */
  checkLength(format: WalFormat | undefined): void {
    const { recordBytesMax } = format ?? ANY_RECORD;
    const length = this.#length();
    if (length < RECORD_HEADER_BYTES) {
      const expected = `: expected at least ${RECORD_HEADER_BYTES}, got ${length}`;
      throw this.corruption('invalid record length at', expected);
    }
    if (length > recordBytesMax) throw this.corruption(`record length ${length} at`, ' too long');
  }

  /**
   * Throws WalCorruption unless the header is a record's (ValidXLogRecordHeader()). Without
   * knowing the `previous` record's start, all that can be said is that it lies before.
   */
  checkHeader(format: WalFormat | undefined, previous: bigint | undefined): void {
    this.checkLength(format);
    const { isResourceManager } = format ?? ANY_RECORD;
    const resourceManager = this.#header.getUint8(17);
    if (isResourceManager[resourceManager] !== true) {
      throw this.corruption(`invalid resource manager ID ${resourceManager} at`);
    }
    const link = this.#header.getBigUint64(8, true);
    const isLinked = previous === undefined ? link < this.#begun() : link === previous;
    if (isLinked) return;
    throw this.corruption(`record with incorrect prev-link ${formatLsn(lsn(link))} at`);
  }

  takeBody(view: DataView, from: number, to: number): void {
    this.#crc = crc32cUpdate(this.#crc, view, from, to);
    if (this.#bodyBytes < CHECKPOINT_HEAD_BYTES) {
      gather(this.#checkpointHead, this.#bodyBytes, view, from, to);
    }
    this.#bodyBytes += to - from;
  }

  /** Copies the header to `header`, for somebody else to take of the body. */
  lend(header: DataView): LentBody {
    gather(header, 0, this.#header, 0, RECORD_HEADER_BYTES);
    return { start: this.#begun(), left: this.left, crc: this.#crc };
  }

  /** Goes on from where somebody else has come to in the body of a record. */
  takeBack(header: DataView, { start, left, crc }: LentBody): void {
    this.#start = start;
    this.#headerBytes = gather(this.#header, 0, header, 0, RECORD_HEADER_BYTES);
    this.#bodyBytes = this.#length() - RECORD_HEADER_BYTES - left;
    this.#crc = crc;
  }

  /** Throws WalCorruption unless the complete record has the CRC that its header says. */
  checkBody(): void {
    const crc = crc32cFinish(crc32cUpdate(this.#crc, this.#header, 0, RECORD_CRC_OFFSET));
    if (crc === this.#header.getInt32(RECORD_CRC_OFFSET, true)) return;
    throw this.corruption('incorrect resource manager data checksum in record at');
  }

  /** An error about this record: what is wrong, its LSN, and what else there is to say. */
  corruption(before: string, after = ''): WalCorruption {
    const start = this.#begun();
    return new WalCorruption(start, `${before} ${formatLsn(start)}${after}`);
  }

  #length(): number {
    return this.#header.getUint32(0, true);
  }

  #begun(): Lsn {
    assert(this.#start !== undefined, 'a record has begun');
    return this.#start;
  }
}
