/**
 * CRC-32C (Castagnoli), with which PostgreSQL protects WAL records (pg_crc32c.h).
 *
 * Incremental: a checksum in progress is a signed 32-bit number that begins as CRC32C_START, goes
 * through crc32cUpdate() any number of times and ends with crc32cFinish().
 *
 * Sixteen bytes are taken at a time, with one table for each of them ("slicing-by-16"). A DataView
 * reads them as four words at any alignment. The word that depends on the bytes before comes last,
 * so that the processor need not wait for it: that alone is a quarter of the speed.
 */

/** INIT_CRC32C. */
export const CRC32C_START = -1;

const POLYNOMIAL_REVERSED = 0x82f63b78;
const TABLE = makeTables();

/** `crc` after the bytes of `view` from `from` up to, not including, `to` (COMP_CRC32C). */
export function crc32cUpdate(crc: number, view: DataView, from: number, to: number): number {
  let at = from;
  let c = crc;
  for (const last = to - 16; at <= last; at += 16) {
    const w0 = c ^ view.getInt32(at, true);
    const w1 = view.getInt32(at + 4, true);
    const w2 = view.getInt32(at + 8, true);
    const w3 = view.getInt32(at + 12, true);
    c =
      (TABLE[w3 >>> 24] as number) ^
      (TABLE[256 + ((w3 >>> 16) & 0xff)] as number) ^
      (TABLE[512 + ((w3 >>> 8) & 0xff)] as number) ^
      (TABLE[768 + (w3 & 0xff)] as number) ^
      (TABLE[1024 + (w2 >>> 24)] as number) ^
      (TABLE[1280 + ((w2 >>> 16) & 0xff)] as number) ^
      (TABLE[1536 + ((w2 >>> 8) & 0xff)] as number) ^
      (TABLE[1792 + (w2 & 0xff)] as number) ^
      (TABLE[2048 + (w1 >>> 24)] as number) ^
      (TABLE[2304 + ((w1 >>> 16) & 0xff)] as number) ^
      (TABLE[2560 + ((w1 >>> 8) & 0xff)] as number) ^
      (TABLE[2816 + (w1 & 0xff)] as number) ^
      ((TABLE[3072 + (w0 >>> 24)] as number) ^
        (TABLE[3328 + ((w0 >>> 16) & 0xff)] as number) ^
        (TABLE[3584 + ((w0 >>> 8) & 0xff)] as number) ^
        (TABLE[3840 + (w0 & 0xff)] as number));
  }
  for (const last = to - 4; at <= last; at += 4) {
    const w = c ^ view.getInt32(at, true);
    c =
      (TABLE[768 + (w & 0xff)] as number) ^
      (TABLE[512 + ((w >>> 8) & 0xff)] as number) ^
      (TABLE[256 + ((w >>> 16) & 0xff)] as number) ^
      (TABLE[w >>> 24] as number);
  }
  for (; at < to; at++) {
    c = (TABLE[(c ^ view.getUint8(at)) & 0xff] as number) ^ (c >>> 8);
  }
  return c;
}

/** The checksum, as PostgreSQL stores it, read as a signed number (FIN_CRC32C). */
export function crc32cFinish(crc: number): number {
  return ~crc;
}

/** The CRC-32C of all of `bytes`, as an unsigned number. */
export function crc32c(bytes: Uint8Array): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return crc32cFinish(crc32cUpdate(CRC32C_START, view, 0, bytes.byteLength)) >>> 0;
}

/** Table k, at k * 256, moves a byte's remainder past k further bytes. */
function makeTables(): Int32Array {
  const table = new Int32Array(16 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) {
      remainder = (remainder >>> 1) ^ (remainder & 1 ? POLYNOMIAL_REVERSED : 0);
    }
    table[byte] = remainder;
  }
  for (let index = 256; index < table.length; index++) {
    const shorter = table[index - 256] as number;
    table[index] = (table[shorter & 0xff] as number) ^ (shorter >>> 8);
  }
  return table;
}
