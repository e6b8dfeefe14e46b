/**
 * Proves WAL as it comes, in chunks cut anywhere: page headers, prev links and CRCs.
 *
 *   proven ≤ received   Only what lies below `proven` may be served to anyone.
 *
 * A walker lives as long as its stream of contiguous WAL and ends at the first thing wrong with it.
 * It keeps no WAL: records that lie whole in a page and a chunk are proven in place (the fast path,
 * which leaves all that is special or wrong to the slow one); the others byte by byte as they come.
 * Inside, positions are numbers, counted in bytes from the start of the first segment.
 */
import { assert } from '../base/assert.ts';
import { WalCorruption } from './corruption.ts';
import { CRC32C_START, crc32cFinish, crc32cUpdate } from './crc32c.ts';
import { ANY_RECORD, PAGE_FLAG, type WalFormat } from './formats.ts';
import { advance, formatLsn, lsn, timelineId, type Lsn, type TimelineId } from './lsn.ts';
import {
  LONG_PAGE_HEADER_BYTES,
  PAGE_BYTES,
  PAGE_HEADER_BYTES,
  checkPageHeader,
  decodePageHeader,
  pageHeaderBytes,
  type PageHeader,
} from './page.ts';
import {
  CHECKPOINT_HEAD_BYTES,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_BYTES,
  RECORD_KIND,
  decodeCheckpoint,
  recordKind,
  type Checkpoint,
} from './record.ts';
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
  readonly #baseHigh: number;
  readonly #baseLow: number;
  #format: WalFormat | undefined;
  #systemIdentifier: bigint | undefined;
  #timeline: TimelineId | undefined;
  #corruption: WalCorruption | undefined;

  #received: number;
  #proven: number;
  #provenRecordStart: number | undefined;
  #lastCheckpoint: Checkpoint | undefined;

  /** How far the current chunk has been walked. */
  #position: number;
  /** Bytes to the page's end; 0 where a page header is next. */
  #pageLeft: number;
  readonly #pageHeader = new DataView(new ArrayBuffer(LONG_PAGE_HEADER_BYTES));
  #pageHeaderGathered = 0;

  #phase: Phase;
  /** Of a continuation, body, padding or skipped segment: bytes that are still to come. */
  #left = 0;
  readonly #recordHeader = new DataView(new ArrayBuffer(RECORD_HEADER_BYTES));
  /** Bytes of the record header that are there; 0 between records. */
  #recordHeaderGathered = 0;
  #recordStart = 0;
  #crc = CRC32C_START;
  readonly #checkpointHead = new DataView(new ArrayBuffer(CHECKPOINT_HEAD_BYTES));

  /** The start of the record before, in halves as prev links have it, signed. */
  #previousLow = 0;
  #previousHigh = 0;
  #isPreviousKnown = false;

  constructor(options: WalWalkerOptions) {
    const { segmentBytes, start, startsAt, previous } = options;
    checkSegmentBytes(segmentBytes);
    this.#segmentBytes = segmentBytes;
    this.#base = segmentStart(start, segmentBytes);
    this.#baseHigh = Number(this.#base >> 32n);
    this.#baseLow = Number(this.#base & 0xffff_ffffn);
    this.#format = options.format;
    this.#systemIdentifier = options.systemIdentifier;
    const offset = Number(start - this.#base);
    assert(startsAt === 'record' || offset === 0, 'a walk from a segment begins at its start');
    assert(offset % 8 === 0, 'records start at multiples of 8');
    this.#received = this.#proven = this.#position = offset;
    this.#pageLeft = (PAGE_BYTES - (offset % PAGE_BYTES)) % PAGE_BYTES;
    this.#phase = startsAt === 'segment' ? 'continuation' : 'header';
    if (previous !== undefined) {
      this.#previousHigh = Number(previous >> 32n) | 0;
      this.#previousLow = Number(previous & 0xffff_ffffn) | 0;
      this.#isPreviousKnown = true;
    }
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
    const start = this.#provenRecordStart;
    return start === undefined ? undefined : this.#lsnAt(start);
  }

  /** The record that has begun and is not proven yet; undefined once the walk has ended. */
  get openRecord(): OpenRecord | undefined {
    if (this.#corruption || this.#recordHeaderGathered === 0) return undefined;
    const lengthBytes = this.#recordHeaderGathered < 4 ? undefined : this.#recordLength();
    return { start: this.#lsnAt(this.#recordStart), lengthBytes };
  }

  /** That of the last page header. In a timeline's first segment it may still be the parent's. */
  get timeline(): TimelineId | undefined {
    return this.#timeline;
  }

  get systemIdentifier(): bigint | undefined {
    return this.#systemIdentifier;
  }

  get format(): WalFormat | undefined {
    return this.#format;
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
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    try {
      this.#walk(view);
      this.#received = this.#position;
    } catch (error) {
      if (!(error instanceof WalCorruption)) throw error;
      this.#corruption = error;
      this.#received = Math.max(this.#received, this.#proven);
      throw error;
    }
    assert(this.#proven <= this.#received, 'only what was received is proven');
  }

  #walk(view: DataView): void {
    const end = view.byteLength;
    for (let at = 0; at < end; ) {
      if (this.#phase === 'skipped') {
        at += this.#skip(end - at);
      } else if (this.#pageLeft === 0) {
        at += this.#gatherPageHeader(view, at);
      } else {
        const pageEnd = Math.min(end, at + this.#pageLeft);
        if (this.#phase === 'header' && this.#recordHeaderGathered === 0) {
          at += this.#proveInPlace(view, at, pageEnd);
        }
        if (at < pageEnd) at += this.#walkPart(view, at, pageEnd);
      }
    }
  }

  /** The fast path. Returns how many bytes of whole and plain records there are from `from` on. */
  #proveInPlace(view: DataView, from: number, to: number): number {
    if (!this.#isPreviousKnown) return 0;
    const { isResourceManager } = this.#format ?? ANY_RECORD;
    // A page lies within 4 GB, so its records differ only in the lower half.
    const high = this.#high(this.#position);
    const lowAtZero = this.#low(this.#position) - from;
    let previousLow = this.#previousLow;
    let previousHigh = this.#previousHigh;
    let start = -1;
    let at = from;
    while (to - at >= RECORD_HEADER_BYTES) {
      const length = view.getUint32(at, true);
      const next = at + length + (-length & 7);
      if (length < RECORD_HEADER_BYTES || next > to) break;
      if (view.getInt32(at + 8, true) !== previousLow) break;
      if (view.getInt32(at + 12, true) !== previousHigh) break;
      const resourceManager = view.getUint8(at + 17);
      if (isResourceManager[resourceManager] !== true) break;
      if (recordKind(resourceManager, view.getUint8(at + 16)) !== RECORD_KIND.OTHER) break;
      const body = crc32cUpdate(CRC32C_START, view, at + RECORD_HEADER_BYTES, at + length);
      const crc = crc32cFinish(crc32cUpdate(body, view, at, at + RECORD_CRC_OFFSET));
      if (crc !== view.getInt32(at + RECORD_CRC_OFFSET, true)) break;
      previousLow = (lowAtZero + at) | 0;
      previousHigh = high;
      start = at;
      at = next;
    }
    if (start < 0) return 0;
    this.#previousLow = previousLow;
    this.#previousHigh = previousHigh;
    this.#provenRecordStart = this.#position + start - from;
    this.#consume(at - from);
    this.#proven = this.#position;
    return at - from;
  }

  /** The slow path: one part of a record, or as much of it as there is. */
  #walkPart(view: DataView, from: number, to: number): number {
    if (this.#phase === 'header') return this.#gatherRecordHeader(view, from, to);
    const bytes = Math.min(this.#left, to - from);
    if (this.#phase === 'body') this.#readBody(view, from, from + bytes);
    this.#consume(bytes);
    this.#left -= bytes;
    if (this.#left > 0) return bytes;
    if (this.#phase === 'body') this.#endBody();
    else if (this.#phase === 'padding') this.#endRecord();
    else this.#endContinuation(this.#position);
    return bytes;
  }

  #gatherRecordHeader(view: DataView, from: number, to: number): number {
    if (this.#recordHeaderGathered === 0) this.#recordStart = this.#position;
    const bytes = gather(this.#recordHeader, this.#recordHeaderGathered, view, from, to);
    this.#recordHeaderGathered += bytes;
    this.#consume(bytes);
    if (this.#recordHeaderGathered === RECORD_HEADER_BYTES) this.#beginBody();
    // Without a length that can be trusted there may be no next page.
    else if (this.#pageLeft === 0) this.#checkRecordLength();
    return bytes;
  }

  /** xlogreader.c, ValidXLogRecordHeader(). */
  #beginBody(): void {
    this.#checkRecordLength();
    const header = this.#recordHeader;
    const { isResourceManager } = this.#format ?? ANY_RECORD;
    const resourceManager = header.getUint8(17);
    if (isResourceManager[resourceManager] !== true) {
      throw this.#recordCorruption(`invalid resource manager ID ${resourceManager} at`);
    }
    const previous = header.getBigUint64(8, true);
    const isPrevious = this.#isPreviousKnown
      ? header.getInt32(8, true) === this.#previousLow &&
        header.getInt32(12, true) === this.#previousHigh
      : previous < this.#lsnAt(this.#recordStart);
    if (!isPrevious) {
      throw this.#recordCorruption(
        `record with incorrect prev-link ${formatLsn(lsn(previous))} at`,
      );
    }
    this.#phase = 'body';
    this.#left = this.#recordLength() - RECORD_HEADER_BYTES;
    this.#crc = CRC32C_START;
    if (this.#left === 0) this.#endBody();
  }

  #checkRecordLength(): void {
    const { recordBytesMax } = this.#format ?? ANY_RECORD;
    const length = this.#recordLength();
    if (length < RECORD_HEADER_BYTES) {
      throw this.#recordCorruption(
        'invalid record length at',
        `: expected at least ${RECORD_HEADER_BYTES}, got ${length}`,
      );
    }
    if (length > recordBytesMax) {
      throw this.#recordCorruption(`record length ${length} at`, ' too long');
    }
  }

  #readBody(view: DataView, from: number, to: number): void {
    this.#crc = crc32cUpdate(this.#crc, view, from, to);
    const read = this.#recordLength() - RECORD_HEADER_BYTES - this.#left;
    if (read < CHECKPOINT_HEAD_BYTES) gather(this.#checkpointHead, read, view, from, to);
  }

  #endBody(): void {
    const crc = crc32cUpdate(this.#crc, this.#recordHeader, 0, RECORD_CRC_OFFSET);
    if (crc32cFinish(crc) !== this.#recordHeader.getInt32(RECORD_CRC_OFFSET, true)) {
      throw this.#recordCorruption('incorrect resource manager data checksum in record at');
    }
    this.#phase = 'padding';
    this.#left = -this.#recordLength() & 7;
    if (this.#left === 0) this.#endRecord();
  }

  #endRecord(): void {
    const start = this.#recordStart;
    const kind = recordKind(this.#recordHeader.getUint8(17), this.#recordHeader.getUint8(16));
    const bodyLength = this.#recordLength() - RECORD_HEADER_BYTES;
    if (kind === RECORD_KIND.CHECKPOINT && bodyLength >= CHECKPOINT_HEAD_BYTES) {
      const checkpoint = decodeCheckpoint(this.#lsnAt(start), this.#checkpointHead, 0);
      this.#lastCheckpoint = checkpoint ?? this.#lastCheckpoint;
    }
    this.#previousLow = this.#low(start);
    this.#previousHigh = this.#high(start);
    this.#isPreviousKnown = true;
    this.#provenRecordStart = start;
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
    this.#recordHeaderGathered = 0;
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

  #gatherPageHeader(view: DataView, from: number): number {
    const gathered = this.#pageHeaderGathered;
    const wanted = gathered < PAGE_HEADER_BYTES ? PAGE_HEADER_BYTES : LONG_PAGE_HEADER_BYTES;
    const to = Math.min(view.byteLength, from + wanted - gathered);
    const bytes = gather(this.#pageHeader, gathered, view, from, to);
    this.#pageHeaderGathered += bytes;
    this.#position += bytes;
    if (this.#pageHeaderGathered < PAGE_HEADER_BYTES) return bytes;
    const headerBytes = pageHeaderBytes(this.#pageHeader);
    if (this.#pageHeaderGathered < headerBytes) return bytes;
    this.#pageHeaderGathered = 0;
    this.#pageLeft = PAGE_BYTES - headerBytes;
    this.#enterPage(decodePageHeader(this.#pageHeader), this.#position - headerBytes);
    return bytes;
  }

  #enterPage(header: PageHeader, page: number): void {
    const address = this.#lsnAt(page);
    this.#format = checkPageHeader(header, {
      address,
      segmentBytes: this.#segmentBytes,
      format: this.#format,
      systemIdentifier: this.#systemIdentifier,
      timeline: this.#timeline,
    });
    this.#systemIdentifier = header.segment?.systemIdentifier ?? this.#systemIdentifier;
    if (header.timeline !== this.#timeline) this.#timeline = timelineId(header.timeline);
    const isContinued = (header.flags & PAGE_FLAG.FIRST_IS_CONTINUATION) !== 0;
    const isOverwritten = (header.flags & this.#format.overwriteContinuationFlag) !== 0;
    if (this.#phase === 'continuation') {
      if (isOverwritten || (page === 0 && !isContinued)) this.#endContinuation(page);
      else this.#continueUnproven(header, isContinued, page);
    } else if (isOverwritten) {
      // A crash lost the rest of the open record: what follows takes its place.
      this.#expectRecord();
    } else if (this.#recordHeaderGathered > 0) {
      this.#checkContinued(header, isContinued);
      return;
    }
    if (isContinued && this.#phase !== 'continuation') {
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
    if (!isContinued) throw this.#recordCorruption('there is no contrecord flag at');
    const isHeader = this.#phase === 'header';
    const left = isHeader ? this.#recordLength() - this.#recordHeaderGathered : this.#left;
    if (header.remainingBytes !== left) {
      throw this.#recordCorruption(
        `invalid contrecord length ${header.remainingBytes} (expected ${left}) at`,
      );
    }
  }

  #recordCorruption(before: string, after = ''): WalCorruption {
    const start = this.#lsnAt(this.#recordStart);
    return new WalCorruption(start, `${before} ${formatLsn(start)}${after}`);
  }

  #recordLength(): number {
    return this.#recordHeader.getUint32(0, true);
  }

  #consume(bytes: number): void {
    this.#position += bytes;
    this.#pageLeft -= bytes;
  }

  #lsnAt(position: number): Lsn {
    return advance(this.#base, position);
  }

  #low(position: number): number {
    return (this.#baseLow + position) | 0;
  }

  #high(position: number): number {
    return (this.#baseHigh + Math.floor((this.#baseLow + position) / 2 ** 32)) | 0;
  }
}

/** Copies from `view` into `part`, after the `gathered` bytes it has, what fits of it. */
function gather(
  part: DataView,
  gathered: number,
  view: DataView,
  from: number,
  to: number,
): number {
  const bytes = Math.min(part.byteLength - gathered, to - from);
  for (let i = 0; i < bytes; i++) part.setUint8(gathered + i, view.getUint8(from + i));
  return bytes;
}
