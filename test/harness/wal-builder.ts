/**
 * Makes WAL that no server wrote: small, at any position, with what a test needs to be in it.
 *
 * It shares only sizes and flags with the code under test: pages, records and CRCs are written
 * here once more, in the plainest way.
 */
import { PAGE_FLAG, walFormatByMajor } from '../../src/wal/formats.ts';
import { advance, type Lsn } from '../../src/wal/lsn.ts';

export interface RecordToBuild {
  /** What follows the header of 24 bytes; by default `bodyBytes` bytes of some pattern. */
  readonly body?: Uint8Array;
  readonly bodyBytes?: number;
  /** 10 (heap) if not given. */
  readonly resourceManager?: number;
  readonly info?: number;
  /** Makes it a switch record: zeros follow, to the segment's end. */
  readonly switchSegment?: boolean;
  /** Makes it an online checkpoint. */
  readonly checkpoint?: { readonly redo: Lsn; readonly timeline: number };
  /** Writes only its first page's part: the next record overwrites the rest, after a crash. */
  readonly aborted?: boolean;
  /** From this record on, pages are of this timeline. */
  readonly timeline?: number;
}

export interface WalToBuild {
  readonly segmentBytes: number;
  /** Where the bytes start: a page's or segment's start, or where the first record is to be. */
  readonly start: Lsn;
  readonly timeline: number;
  readonly systemIdentifier: bigint;
  readonly records: readonly RecordToBuild[];
  /** PostgreSQL's major version; 16 if not given. */
  readonly major?: number;
  /** The prev link of the first record; 0 if not given. */
  readonly previous?: Lsn;
  /** So many bytes of an earlier record come first; `start` must be a page's or segment's. */
  readonly continuationBytes?: number;
}

export interface BuiltWal {
  readonly wal: Buffer;
  /** In the order given. `end` is aligned; a switch record's is its segment's end. */
  readonly records: readonly { readonly start: Lsn; readonly end: Lsn }[];
}

const PAGE_BYTES = 8192;
const HEAP = 10;

/** The bytes alone: see buildWalWithPositions(). */
export function buildWal(options: WalToBuild): Buffer {
  return buildWalWithPositions(options).wal;
}

/** WAL from `start` to the end of the last record, and where its records are. */
export function buildWalWithPositions(options: WalToBuild): BuiltWal {
  const writer = new PageWriter(options);
  if (options.continuationBytes !== undefined) {
    writer.write(Buffer.alloc(options.continuationBytes, 0x63), { isContinuation: true });
    writer.pad();
  }
  const records: { start: Lsn; end: Lsn }[] = [];
  let previous = options.previous ?? 0n;
  for (const record of options.records) {
    writer.timeline = record.timeline ?? writer.timeline;
    const start = writer.beginRecord();
    const bytes = encodeRecord(record, previous);
    if (record.aborted === true) {
      writer.writeFirstPart(bytes);
    } else {
      writer.write(bytes, { isContinuation: false });
      writer.pad();
      if (record.switchSegment === true) writer.skipSegment();
      previous = start;
    }
    records.push({ start, end: writer.position });
  }
  return { wal: writer.bytes(), records };
}

function encodeRecord(record: RecordToBuild, previous: bigint): Buffer {
  const body = Buffer.from(recordBody(record));
  const header = Buffer.alloc(24);
  header.writeUInt32LE(24 + body.length, 0);
  header.writeUInt32LE(700, 4);
  header.writeBigUInt64LE(previous, 8);
  header.writeUInt8(record.info ?? 0, 16);
  header.writeUInt8(record.resourceManager ?? HEAP, 17);
  if (record.switchSegment === true) header.writeUInt16LE(0x0040, 16);
  if (record.checkpoint) header.writeUInt16LE(0x0010, 16);
  header.writeUInt32LE(bitwiseCrc32c(Buffer.concat([body, header.subarray(0, 20)])), 20);
  return Buffer.concat([header, body]);
}

function recordBody({ body, bodyBytes, switchSegment, checkpoint }: RecordToBuild): Uint8Array {
  if (body) return body;
  if (switchSegment === true) return Buffer.alloc(0);
  if (checkpoint) {
    const bytes = Buffer.alloc(90);
    bytes.writeUInt8(255, 0);
    bytes.writeUInt8(88, 1);
    bytes.writeBigUInt64LE(checkpoint.redo, 2);
    bytes.writeUInt32LE(checkpoint.timeline, 10);
    return bytes;
  }
  return Buffer.alloc(bodyBytes ?? 40, 'some bytes that are not all alike, ');
}

class PageWriter {
  timeline: number;
  position: Lsn;
  readonly #options: WalToBuild;
  readonly #parts: Buffer[] = [];
  #isOverwrite = false;

  constructor(options: WalToBuild) {
    this.#options = options;
    this.timeline = options.timeline;
    this.position = options.start;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#parts);
  }

  /** Where the record that comes next starts: at a page's start, after the header. */
  beginRecord(): Lsn {
    if (this.#pageLeft() === PAGE_BYTES) this.#pageHeader(0, false);
    return this.position;
  }

  write(bytes: Buffer, { isContinuation }: { isContinuation: boolean }): void {
    for (let at = 0; at < bytes.length; ) {
      const isContinued = at > 0 || isContinuation;
      if (this.#pageLeft() === PAGE_BYTES) this.#pageHeader(bytes.length - at, isContinued);
      const part = bytes.subarray(at, at + this.#pageLeft());
      this.#append(part);
      at += part.length;
    }
  }

  writeFirstPart(bytes: Buffer): void {
    this.#append(bytes.subarray(0, this.#pageLeft()));
    if (this.#pageLeft() !== PAGE_BYTES) throw new Error('an aborted record must reach a page end');
    this.#isOverwrite = true;
  }

  pad(): void {
    this.#append(Buffer.alloc(Number((8n - (this.position % 8n)) % 8n)));
  }

  skipSegment(): void {
    const size = BigInt(this.#options.segmentBytes);
    this.#append(Buffer.alloc(Number((size - (this.position % size)) % size)));
  }

  #pageHeader(remainingBytes: number, isContinued: boolean): void {
    const { segmentBytes, systemIdentifier, major } = this.#options;
    const format = walFormatByMajor(major ?? 16);
    if (!format) throw new Error(`no WAL format of version ${major}`);
    const isLong = this.position % BigInt(segmentBytes) === 0n;
    const header = Buffer.alloc(isLong ? 40 : 24);
    const flags =
      (isContinued ? PAGE_FLAG.FIRST_IS_CONTINUATION : 0) |
      (isLong ? PAGE_FLAG.LONG_HEADER : 0) |
      (this.#isOverwrite ? format.overwriteContinuationFlag : 0);
    header.writeUInt16LE(format.magic, 0);
    header.writeUInt16LE(flags, 2);
    header.writeUInt32LE(this.timeline, 4);
    header.writeBigUInt64LE(this.position, 8);
    header.writeUInt32LE(isContinued ? remainingBytes : 0, 16);
    if (isLong) {
      header.writeBigUInt64LE(systemIdentifier, 24);
      header.writeUInt32LE(segmentBytes, 32);
      header.writeUInt32LE(PAGE_BYTES, 36);
    }
    this.#isOverwrite = false;
    this.#append(header);
  }

  /** A whole page at a page's start, where the header is still to be written. */
  #pageLeft(): number {
    return PAGE_BYTES - Number(this.position % BigInt(PAGE_BYTES));
  }

  #append(bytes: Buffer): void {
    this.#parts.push(bytes);
    this.position = advance(this.position, bytes.length);
  }
}

/** Slow on purpose: it has nothing in common with the tables of the code under test. */
export function bitwiseCrc32c(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}
