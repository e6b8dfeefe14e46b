/**
 * Proves WAL as it comes, in chunks cut anywhere: page headers, prev links and CRCs.
 *
 *   proven ≤ received   Only what lies below `proven` may be served to anyone.
 *
 * A walker lives as long as its stream of contiguous WAL and ends at the first thing wrong with it.
 * It keeps no WAL. What is ordinary is proven in bulk (the fast path, which leaves all that is
 * special or wrong to the slow one); here is the slow path, which is the definition of the proof.
 * Inside, positions are numbers, counted in bytes from the start of the first segment.
 */
import { assert } from '../base/assert.ts';
import { BULK_BYTES_MIN, sharedBulkProof } from './bulk-proof.ts';
import { WalCorruption } from './corruption.ts';
import { PAGE_FLAG, type WalFormat } from './formats.ts';
import { advance, formatLsn, type Lsn, type TimelineId } from './lsn.ts';
import { PageHeaderReader } from './page-header-reader.ts';
import { PAGE_BYTES, type PageHeader } from './page.ts';
import { RECORD_KIND, type Checkpoint } from './record.ts';
import { RecordReader } from './record-reader.ts';
import { checkSegmentBytes, segmentStart } from './segment.ts';

export { WalCorruption } from './corruption.ts';

export interface WalWalkerOptions {
  readonly segmentBytes: number;
  /** Where the first chunk starts. */
  readonly start: Lsn;
  /**
   * `segment`: `start` is a segment's. A continuation at its head cannot be proven: only its page
   * headers are checked, and the first record is the one after it.
   * `record`: a record starts here (or after the page header here, if this is a page's start).
   */
  readonly startsAt: 'segment' | 'record';
  /** If given, WAL of another cluster is refused; else the first long page header gives it. */
  readonly systemIdentifier?: bigint | undefined;
  /** If given, WAL of another version is refused; else the first page header gives it. */
  readonly format?: WalFormat | undefined;
  /** The start of the record before the first one, if known: the first prev link must name it. */
  readonly previous?: Lsn | undefined;
  /** What another walk has found before `start`. */
  readonly lastCheckpoint?: Checkpoint | undefined;
  /** False to do without the fast path, which must make no difference but in time. */
  readonly inBulk?: boolean;
}

/** A record of which not all bytes have been pushed; its alignment's padding counts too. */
export interface OpenRecord {
  readonly start: Lsn;
  /** Its length field (page headers and padding are not counted), once that was pushed. */
  readonly lengthBytes: number | undefined;
}

/**
 * What the next byte that is in no page header belongs to:
 *
 *   continuation ─▶ header ⇄ body ⇄ padding     header, body or padding ends a record
 *                   header ⇄ skipped            after a switch record, to the segment's end
 */
type Phase = 'continuation' | 'header' | 'body' | 'padding' | 'skipped';

export class WalWalker {
  readonly #segmentBytes: number;
  readonly #base: Lsn;
  readonly #pages: PageHeaderReader;
  readonly #inBulk: boolean;
  readonly #record = new RecordReader();
  #corruption: WalCorruption | undefined;

  /** The start of the last record, which the next one's prev link must name, if it is known. */
  #previous: Lsn | undefined;
  #received: number;
  #proven: number;
  #isAnyProven = false;
  #lastCheckpoint: Checkpoint | undefined;

  /** How far the current chunk has been walked. */
  #position: number;
  /** Bytes to the page's end; 0 where a page header is next. */
  #pageLeft: number;
  #phase: Phase;
  /** Of a continuation, padding or skipped segment: bytes that are still to come. */
  #left = 0;

  constructor(options: WalWalkerOptions) {
    const { segmentBytes, start, startsAt, previous, format, systemIdentifier } = options;
    checkSegmentBytes(segmentBytes);
    this.#segmentBytes = segmentBytes;
    this.#base = segmentStart(start, segmentBytes);
    this.#pages = new PageHeaderReader(segmentBytes, { format, systemIdentifier });
    const offset = Number(start - this.#base);
    assert(startsAt === 'record' || offset === 0, 'a walk from a segment begins at its start');
    assert(offset % 8 === 0, 'records start at multiples of 8');
    this.#received = this.#proven = this.#position = offset;
    this.#pageLeft = (PAGE_BYTES - (offset % PAGE_BYTES)) % PAGE_BYTES;
    this.#phase = startsAt === 'segment' ? 'continuation' : 'header';
    this.#previous = previous;
    this.#lastCheckpoint = options.lastCheckpoint;
    this.#inBulk = options.inBulk ?? true;
  }

  /** The end of the pushed bytes. A chunk that was refused counts only as far as it is proven. */
  get received(): Lsn {
    return this.#lsnAt(this.#received);
  }

  /**
   * The end of the last proven record, aligned to 8; after a switch record the segment's end, once
   * that much was pushed. Before any record: the first one's start if a continuation came before
   * it, else where the walk started.
   */
  get proven(): Lsn {
    return this.#lsnAt(this.#proven);
  }

  /** Where the last proven record starts. */
  get provenRecordStart(): Lsn | undefined {
    return this.#isAnyProven ? this.#previous : undefined;
  }

  /** The record that has begun and is not proven yet; undefined once the walk has ended. */
  get openRecord(): OpenRecord | undefined {
    const { start, length } = this.#record;
    if (this.#corruption || start === undefined) return undefined;
    return { start, lengthBytes: length };
  }

  /** That of the last page header. In a timeline's first segment it may still be the parent's. */
  get timeline(): TimelineId | undefined {
    return this.#pages.timeline;
  }

  get systemIdentifier(): bigint | undefined {
    return this.#pages.systemIdentifier;
  }

  get format(): WalFormat | undefined {
    return this.#pages.format;
  }

  /** The last proven checkpoint record, of a shutdown or online. */
  get lastCheckpoint(): Checkpoint | undefined {
    return this.#lastCheckpoint;
  }

  /**
   * Takes the WAL that follows what was pushed before. Throws WalCorruption at the first thing
   * wrong (and again at every later push): the positions then tell what was proven before it.
   */
  push(chunk: Uint8Array): void {
    if (this.#corruption) throw this.#corruption;
    try {
      this.#walk(chunk);
      this.#received = this.#position;
    } catch (error) {
      if (!(error instanceof WalCorruption)) throw error;
      this.#corruption = error;
      this.#received = Math.max(this.#received, this.#proven);
      throw error;
    }
    assert(this.#proven <= this.#received, 'only what was received is proven');
  }

  #walk(chunk: Uint8Array): void {
    const { bytesMax } = sharedBulkProof();
    if (chunk.length <= bytesMax) return this.#walkPiece(chunk);
    for (let at = 0; at < chunk.length; at += bytesMax) {
      this.#walkPiece(chunk.subarray(at, at + bytesMax));
    }
  }

  #walkPiece(piece: Uint8Array): void {
    const view = new DataView(piece.buffer, piece.byteOffset, piece.byteLength);
    const end = piece.length;
    const isInBulk = this.#inBulk && end >= BULK_BYTES_MIN;
    if (isInBulk) sharedBulkProof().load(piece);
    for (let at = 0; at < end; ) {
      if (isInBulk && end - at >= BULK_BYTES_MIN) at += this.#proveInBulk(at);
      if (at < end) at += this.#walkNext(view, at);
    }
  }

  /** The fast path, from `from` in the piece that was loaded; returns how far it went. */
  #proveInBulk(from: number): number {
    const { format, timeline } = this.#pages;
    const record = this.#record;
    const previous = this.#previous;
    const isBetween = this.#phase === 'header' && record.start === undefined;
    if (!isBetween && !(this.#phase === 'body' && record.isOrdinaryBody)) return 0;
    if (previous === undefined || format === undefined || timeline === undefined) return 0;
    const start = this.#position;
    if (this.#pageLeft === 0 && start % PAGE_BYTES !== 0) return 0;
    const { bytes, ...proof } = sharedBulkProof().prove(
      { from, position: this.#lsnAt(start), previous },
      record,
      { format, timeline, segmentBytes: this.#segmentBytes },
    );
    this.#position += bytes;
    this.#pageLeft = -this.#position & (PAGE_BYTES - 1);
    if (proof.provenBytes > 0) {
      this.#previous = proof.previous;
      this.#proven = start + proof.provenBytes;
      this.#isAnyProven = true;
    }
    this.#phase = record.start === undefined ? 'header' : 'body';
    if (record.start !== undefined && record.left === 0) this.#endBody();
    return bytes;
  }

  /** The slow path: what comes next, or as much of it as there is. */
  #walkNext(view: DataView, from: number): number {
    if (this.#phase === 'skipped') return this.#skip(view.byteLength - from);
    if (this.#pageLeft === 0) return this.#walkPageHeader(view, from);
    return this.#walkPart(view, from, Math.min(view.byteLength, from + this.#pageLeft));
  }

  /** A part of a record, which lies in one page. */
  #walkPart(view: DataView, from: number, to: number): number {
    if (this.#phase === 'header') return this.#walkRecordHeader(view, from, to);
    if (this.#phase === 'body') return this.#walkBody(view, from, to);
    const bytes = Math.min(this.#left, to - from);
    this.#consume(bytes);
    this.#left -= bytes;
    if (this.#left > 0) return bytes;
    if (this.#phase === 'padding') this.#endRecord();
    else this.#endContinuation(this.#position);
    return bytes;
  }

  #walkRecordHeader(view: DataView, from: number, to: number): number {
    const record = this.#record;
    const { format } = this.#pages;
    if (record.start === undefined) record.begin(this.#lsnAt(this.#position));
    const bytes = record.takeHeader(view, from, to);
    this.#consume(bytes);
    if (record.isHeaderComplete) {
      record.checkHeader(format, this.#previous);
      this.#phase = 'body';
      if (record.left === 0) this.#endBody();
    } else if (this.#pageLeft === 0) {
      // Without a length that can be trusted there may be no next page.
      record.checkLength(format);
    }
    return bytes;
  }

  #walkBody(view: DataView, from: number, to: number): number {
    const bytes = Math.min(this.#record.left, to - from);
    this.#record.takeBody(view, from, from + bytes);
    this.#consume(bytes);
    if (this.#record.left === 0) this.#endBody();
    return bytes;
  }

  #endBody(): void {
    this.#record.checkBody();
    this.#phase = 'padding';
    this.#left = this.#record.paddingBytes;
    if (this.#left === 0) this.#endRecord();
  }

  #endRecord(): void {
    const { start, kind, checkpoint } = this.#record;
    assert(start !== undefined, 'a record that ends has begun');
    this.#lastCheckpoint = checkpoint ?? this.#lastCheckpoint;
    this.#previous = start;
    this.#isAnyProven = true;
    this.#proven = this.#position;
    this.#expectRecord();
    const toSegmentEnd = this.#segmentBytes - (this.#position % this.#segmentBytes);
    if (kind !== RECORD_KIND.SWITCH || toSegmentEnd === this.#segmentBytes) return;
    this.#phase = 'skipped';
    this.#left = toSegmentEnd;
  }

  #endContinuation(firstRecord: number): void {
    this.#proven = firstRecord;
    this.#expectRecord();
  }

  #expectRecord(): void {
    this.#phase = 'header';
    this.#record.end();
  }

  /** What follows a switch record may be anything, in practice zeros without page headers. */
  #skip(available: number): number {
    const bytes = Math.min(this.#left, available);
    this.#left -= bytes;
    this.#position += bytes;
    if (this.#left > 0) return bytes;
    this.#pageLeft = 0;
    this.#proven = this.#position;
    this.#expectRecord();
    return bytes;
  }

  #walkPageHeader(view: DataView, from: number): number {
    const bytes = this.#pages.take(view, from);
    this.#position += bytes;
    const headerBytes = this.#pages.completeBytes;
    if (headerBytes !== undefined) {
      this.#pageLeft = PAGE_BYTES - headerBytes;
      this.#enterPage(this.#position - headerBytes);
    }
    return bytes;
  }

  #enterPage(page: number): void {
    const { header, format } = this.#pages.end(this.#lsnAt(page));
    const isContinued = (header.flags & PAGE_FLAG.FIRST_IS_CONTINUATION) !== 0;
    const isOverwritten = (header.flags & format.overwriteContinuationFlag) !== 0;
    const isRecordOpen = this.#record.start !== undefined;
    if (this.#phase === 'continuation' && !isOverwritten && (page > 0 || isContinued)) {
      this.#continueUnproven(header, isContinued, page);
      return;
    }
    if (isRecordOpen && !isOverwritten) {
      this.#checkContinued(header, isContinued);
      return;
    }
    // A record begins here. One that was open has lost its rest in a crash and is dropped.
    if (this.#phase === 'continuation') this.#endContinuation(page);
    else this.#expectRecord();
    if (isContinued) {
      const record = this.#lsnAt(this.#position);
      throw new WalCorruption(record, `contrecord is requested by ${formatLsn(record)}`);
    }
  }

  /** A continuation whose record began before the walk: its lengths must agree at least. */
  #continueUnproven(header: PageHeader, isContinued: boolean, page: number): void {
    const address = this.#lsnAt(page);
    const remaining = header.remainingBytes;
    const left = remaining + (-remaining & 7);
    if (!isContinued) {
      throw new WalCorruption(address, `there is no contrecord flag at ${formatLsn(address)}`);
    }
    if (remaining === 0 || (page > 0 && left !== this.#left)) {
      const message = `invalid contrecord length ${remaining} at ${formatLsn(address)}`;
      throw new WalCorruption(address, message);
    }
    this.#left = left;
  }

  #checkContinued(header: PageHeader, isContinued: boolean): void {
    const record = this.#record;
    if (!isContinued) throw record.corruption('there is no contrecord flag at');
    if (header.remainingBytes === record.left) return;
    const lengths = `${header.remainingBytes} (expected ${record.left})`;
    throw record.corruption(`invalid contrecord length ${lengths} at`);
  }

  #consume(bytes: number): void {
    this.#position += bytes;
    this.#pageLeft -= bytes;
  }

  #lsnAt(position: number): Lsn {
    return advance(this.#base, position);
  }
}
