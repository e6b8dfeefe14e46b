/**
 * The form of a zstd frame (RFC 8878), as far as it must be known before one is decompressed: what
 * comes from a peer may promise anything.
 *
 * Frames here are single segments that say how much they hold: a decoder then needs no window and
 * no more memory than that. The blocks are walked, not decoded: they end where the frame does.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { asBuffer } from './bytes.ts';

const MAGIC = 0xfd2f_b528;
const MAGIC_BYTES = 4;
const BLOCK_HEADER_BYTES = 3;
const CHECKSUM_BYTES = 4;
const BLOCK = { RAW: 0, RLE: 1, COMPRESSED: 2 } as const;

/** In the frame header descriptor. */
const SINGLE_SEGMENT = 0x20;
const RESERVED = 0x08;
const CHECKSUM = 0x04;
const DICTIONARY = 0x03;
/** A single segment whose content size has four bytes. */
const PLAIN_DESCRIPTOR = 0xa0;
const PLAIN_HEADER_BYTES = MAGIC_BYTES + 1 + 4;

/** How many bytes the content size has, by the first two bits of the descriptor. */
const CONTENT_SIZE_BYTES = [1, 2, 4, 8] as const;

/**
 * How many bytes `frame` decompresses to. Throws 08P01 unless it is one whole frame, with nothing
 * after it, of more than none and at most `contentBytesMax` bytes, that needs no dictionary.
 */
export function checkedContentBytes(frame: Uint8Array, contentBytesMax: number): number {
  const bytes = asBuffer(frame);
  const { contentBytes, headerBytes, hasChecksum } = parseHeader(bytes);
  if (contentBytes === 0 || contentBytes > contentBytesMax) {
    throw invalidFrame(
      `It announces ${contentBytes} bytes, at least 1 and at most ${contentBytesMax} are allowed.`,
    );
  }
  const end = blocksEnd(bytes, headerBytes) + (hasChecksum ? CHECKSUM_BYTES : 0);
  if (end === bytes.length) return contentBytes;
  throw invalidFrame(`It ends after ${end} bytes, the message has ${bytes.length}.`);
}

/**
 * The same content in a frame that is a single segment and tells its size: some libraries write
 * frames as if they did not know it. `frame` must be theirs: without a dictionary or checksum.
 */
export function withContentBytes(frame: Buffer, contentBytes: number): Buffer {
  const descriptor = frame[MAGIC_BYTES] ?? 0;
  if ((descriptor & SINGLE_SEGMENT) !== 0) return frame;
  const sizeBytes = descriptor >> 6 === 0 ? 0 : (CONTENT_SIZE_BYTES[descriptor >> 6] ?? 0);
  const blocks = frame.subarray(MAGIC_BYTES + 2 + sizeBytes);
  const whole = Buffer.allocUnsafe(PLAIN_HEADER_BYTES + blocks.length);
  whole.writeUInt32LE(MAGIC, 0);
  whole[MAGIC_BYTES] = PLAIN_DESCRIPTOR | (descriptor & CHECKSUM);
  whole.writeUInt32LE(contentBytes, MAGIC_BYTES + 1);
  blocks.copy(whole, PLAIN_HEADER_BYTES);
  return whole;
}

interface FrameHeader {
  contentBytes: number;
  headerBytes: number;
  hasChecksum: boolean;
}

function parseHeader(bytes: Buffer): FrameHeader {
  if (bytes.length <= MAGIC_BYTES || bytes.readUInt32LE(0) !== MAGIC) {
    throw invalidFrame('It does not begin as a frame does.');
  }
  const descriptor = bytes.readUInt8(MAGIC_BYTES);
  if ((descriptor & RESERVED) !== 0) throw invalidFrame('A reserved bit of its header is set.');
  if ((descriptor & DICTIONARY) !== 0) throw invalidFrame('It asks for a dictionary.');
  if ((descriptor & SINGLE_SEGMENT) === 0) throw invalidFrame('It is no single segment.');
  const sizeBytes = CONTENT_SIZE_BYTES[descriptor >> 6] ?? 8;
  const headerBytes = MAGIC_BYTES + 1 + sizeBytes;
  if (bytes.length < headerBytes) throw invalidFrame('Its header is cut off.');
  return {
    contentBytes: readContentBytes(bytes, sizeBytes),
    headerBytes,
    hasChecksum: (descriptor & CHECKSUM) !== 0,
  };
}

function readContentBytes(bytes: Buffer, sizeBytes: 1 | 2 | 4 | 8): number {
  const offset = MAGIC_BYTES + 1;
  if (sizeBytes === 1) return bytes.readUInt8(offset);
  if (sizeBytes === 2) return bytes.readUInt16LE(offset) + 256;
  if (sizeBytes === 4) return bytes.readUInt32LE(offset);
  return Number(bytes.readBigUInt64LE(offset));
}

/** Where the last block ends. */
function blocksEnd(bytes: Buffer, start: number): number {
  let offset = start;
  for (;;) {
    if (bytes.length - offset < BLOCK_HEADER_BYTES) throw invalidFrame('It is cut off.');
    const header = bytes.readUIntLE(offset, BLOCK_HEADER_BYTES);
    const type = (header >> 1) & 3;
    if (type > BLOCK.COMPRESSED) throw invalidFrame('A block of it is of a reserved type.');
    offset += BLOCK_HEADER_BYTES + (type === BLOCK.RLE ? 1 : header >> 3);
    if (offset > bytes.length) throw invalidFrame('It is cut off.');
    if ((header & 1) === 1) return offset;
  }
}

/** Also for what only decompressing shows. */
export function invalidFrame(detail: string, cause?: unknown): WalcadeError {
  const message = 'invalid compressed WAL data';
  return new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, message, { detail, cause });
}
