/**
 * The bulk proof of WAL, in AssemblyScript: src/wal/bulk-proof.ts calls it and says what it does.
 *
 * One walk after the other uses the same memory, so nothing in it outlives a call but tables: what
 * a walk needs is put in before the call, and what it has come to is taken out after it. What is
 * called `at` here is a place in memory; a position is one in the WAL.
 */
import { CRC32C_START, crc32cFinish, crc32cOfRecord, crc32cUpdate } from './crc32c';

const PAGE_BYTES: usize = 8192;
const PAGE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 24;

/** XLP_FIRST_IS_CONTRECORD. */
const CONTINUATION: u32 = 0x0001;

/** Where the checksum is in a record's header. */
const CRC_OFFSET: usize = 20;

/** As in src/wal/record.ts: records of this resource manager that are not for here. */
const XLOG_RESOURCE_MANAGER: usize = 0;
const CHECKPOINT_SHUTDOWN: u32 = 0x00;
const CHECKPOINT_ONLINE: u32 = 0x10;
const SWITCH: u32 = 0x40;

export const PIECE_BYTES: usize = 256 * 1024;

/** The WAL to prove. */
export const PIECE: usize = memory.data(256 * 1024, 16);

/** For each resource manager's id, whether a record can have it: 1 or 0. */
export const RESOURCE_MANAGERS: usize = memory.data(256, 16);

/** The header of the record that is open. */
export const HEADER: usize = memory.data(24, 8);

/** A Walk. */
export const WALK: usize = memory.data(32, 8);

/** What a call is given of a walk, and leaves changed. */
class Walk {
  /** Where the last record starts. */
  previous: u64;
  /** Where the open record starts, whose header is complete and whose body is next. */
  open: u64;
  isOpen: u32;
  /** Bytes of its body still to come, and the checksum of those before. */
  left: usize;
  crc: u32;
  /** The end of the last record that this call proved, as an offset in the piece, or 0. */
  proven: usize;
}

const walk = changetype<Walk>(WALK);

let magic: u32 = 0;
let flagsIgnored: u32 = 0;
let timeline: u32 = 0;
let segmentBytes: u64 = 0;
let recordBytesMax: usize = 0;

/** Where the call has come to, and where the page and the piece end. */
let at: usize = 0;
let pageEnd: usize = 0;
let end: usize = 0;

/** Added to a place in memory, this gives its position. */
let toPosition: u64 = 0;

/** What pages and records must agree with, from now on. */
export function expect(
  expectedMagic: u32,
  expectedTimeline: u32,
  flagsAllowed: u32,
  bytesOfSegment: u32,
  bytesOfRecordMax: usize,
): void {
  magic = expectedMagic;
  timeline = expectedTimeline;
  flagsIgnored = flagsAllowed;
  segmentBytes = bytesOfSegment;
  recordBytesMax = bytesOfRecordMax;
}

/**
 * Proves the piece from `from` up to `to`, of which the first byte is at `position`; returns where
 * it stopped: where a record or page starts, or in the body, or after it, of the open record.
 */
export function prove(from: usize, to: usize, position: u64): usize {
  at = PIECE + from;
  end = PIECE + to;
  pageEnd = at + (-usize(position) & (PAGE_BYTES - 1));
  toPosition = position - at;
  walk.proven = 0;
  while (goOn()) {}
  return at - PIECE;
}

function goOn(): bool {
  if (walk.isOpen) return proveOpenRecord();
  if (at == pageEnd) return enterPage(0);
  proveRecords();
  return at == pageEnd || openRecord();
}

/** The records that lie whole in the page and in the piece. */
function proveRecords(): void {
  const to = min(pageEnd, end);
  let header = at;
  let previous = walk.previous;
  while (to - header >= RECORD_HEADER_BYTES) {
    const length: usize = load<u32>(header);
    if (length > to - header) break;
    const next = header + alignedBytes(length);
    if (next > to || !isOrdinaryRecord(header, previous)) break;
    if (crc32cOfRecord(header, length) != load<u32>(header, CRC_OFFSET)) break;
    previous = toPosition + header;
    header = next;
  }
  if (header == at) return;
  walk.previous = previous;
  walk.proven = header - PIECE;
  at = header;
}

/** Begins a record that does not end in this page or piece, or that is wrong. */
function openRecord(): bool {
  if (end - at < RECORD_HEADER_BYTES) return false;
  const start = at;
  const length: usize = load<u32>(start);
  const here = min(pageEnd - start, RECORD_HEADER_BYTES);
  const rest = RECORD_HEADER_BYTES - here;
  memory.copy(HEADER, start, here);
  if (rest > 0) {
    const page = pageEnd;
    if (page + PAGE_HEADER_BYTES + rest > end) return false;
    memory.copy(HEADER + here, page + PAGE_HEADER_BYTES, rest);
    if (!isOrdinaryPage(page, length - here)) return false;
  }
  if (!isOrdinaryRecord(HEADER, walk.previous)) return false;
  walk.isOpen = 1;
  walk.open = toPosition + start;
  walk.left = length - RECORD_HEADER_BYTES;
  walk.crc = CRC32C_START;
  at = start + RECORD_HEADER_BYTES;
  if (rest > 0) {
    at += PAGE_HEADER_BYTES;
    pageEnd += PAGE_BYTES;
  }
  return true;
}

/** The rest of the open record; false where it goes on beyond the piece, or something is wrong. */
function proveOpenRecord(): bool {
  for (;;) {
    const part = min(walk.left, min(pageEnd, end) - at);
    walk.crc = crc32cUpdate(walk.crc, at, at + part);
    walk.left -= part;
    at += part;
    if (walk.left == 0) break;
    if (at != pageEnd || !enterPage(walk.left)) return false;
  }
  const length: usize = load<u32>(HEADER);
  const padding = alignedBytes(length) - length;
  if (end - at < padding) return false;
  if (crc32cFinish(walk.crc, HEADER) != load<u32>(HEADER, CRC_OFFSET)) return false;
  at += padding;
  walk.previous = walk.open;
  walk.proven = at - PIECE;
  walk.isOpen = 0;
  return true;
}

/** Goes past the page header that is next, if it is ordinary. */
function enterPage(remainingBytes: usize): bool {
  if (end - at < PAGE_HEADER_BYTES || !isOrdinaryPage(at, remainingBytes)) return false;
  at += PAGE_HEADER_BYTES;
  pageEnd += PAGE_BYTES;
  return true;
}

/** Whether the short header at `page` is as nearly all are, with so much of a record to come. */
function isOrdinaryPage(page: usize, remainingBytes: usize): bool {
  const position = toPosition + page;
  if (load<u16>(page) != magic || load<u32>(page, 4) != timeline) return false;
  if (load<u64>(page, 8) != position || position % segmentBytes == 0) return false;
  const flags = load<u16>(page, 2) & ~flagsIgnored;
  if (remainingBytes == 0) return flags == 0;
  return flags == CONTINUATION && usize(load<u32>(page, 16)) == remainingBytes;
}

/** Whether the header is one of a record that means nothing to a walker. */
function isOrdinaryRecord(header: usize, previous: u64): bool {
  const length: usize = load<u32>(header);
  if (length < RECORD_HEADER_BYTES || length > recordBytesMax) return false;
  if (load<u64>(header, 8) != previous) return false;
  const resourceManager: usize = load<u8>(header, 17);
  if (load<u8>(RESOURCE_MANAGERS + resourceManager) == 0) return false;
  if (resourceManager != XLOG_RESOURCE_MANAGER) return true;
  const code = load<u8>(header, 16) & 0xf0;
  return code != CHECKPOINT_SHUTDOWN && code != CHECKPOINT_ONLINE && code != SWITCH;
}

function alignedBytes(length: usize): usize {
  return (length + 7) & ~7;
}
