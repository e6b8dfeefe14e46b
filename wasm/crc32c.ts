/**
 * CRC-32C in AssemblyScript: src/wal/crc32c.ts says what it is and is its twin.
 *
 * What limits it is the number of instructions. So a byte is shifted to where it is an entry's
 * offset in its table, and the table's own place is the constant part of a load.
 */

const KB: usize = 1024;

/** Table k, of 256 entries, moves a byte's remainder past k further bytes. */
const TABLES: usize = memory.data(20 * 1024, 16);

/** A byte times four. */
const BYTE: u32 = 0xff << 2;

/** From ONES + n on there are sixteen bytes of which the last n are ones, the others zeros. */
const ONES: usize = memory.data(32, 16);

/** The first value of a checksum, between sixteen bytes of zeros on either side. */
const SEED: usize = memory.data(36, 16);

export const CRC32C_START: u32 = 0xffffffff;

const POLYNOMIAL_REVERSED: u32 = 0x82f63b78;

makeTables();

/** `crc` after the bytes from `from` up to, not including, `to`. */
export function crc32cUpdate(crc: u32, from: usize, to: usize): u32 {
  let at = from;
  for (const odd = from + ((to - from) & 15); at < odd; at++) {
    crc = load<u32>(((crc ^ load<u8>(at)) << 2) & BYTE, TABLES) ^ (crc >>> 8);
  }
  if (at == to) return crc;
  return steps(
    load<u32>(at) ^ crc,
    load<u32>(at, 4),
    load<u32>(at, 8),
    load<u32>(at, 12),
    0,
    at + 16,
    to,
  );
}

/**
 * The checksum of the record of `length` bytes at `header`, which lies there in one piece: of its
 * body, and then of the header's first twenty bytes.
 *
 * The body's odd bytes come first, in a step of their own: what stands before them is taken as
 * zeros, which leave a checksum of zero as it is, and the first value is put in behind those. So
 * there is no branch for bytes that are left over.
 */
export function crc32cOfRecord(header: usize, length: usize): u32 {
  const odd = (length - 24) & 15;
  const at = header + 8 + odd;
  const body = steps(
    (load<u32>(at) & load<u32>(odd, ONES)) ^ load<u32>(odd, SEED),
    (load<u32>(at, 4) & load<u32>(odd, ONES + 4)) ^ load<u32>(odd, SEED + 4),
    (load<u32>(at, 8) & load<u32>(odd, ONES + 8)) ^ load<u32>(odd, SEED + 8),
    (load<u32>(at, 12) & load<u32>(odd, ONES + 12)) ^ load<u32>(odd, SEED + 12),
    load<u32>(odd, SEED + 16),
    at + 16,
    header + length,
  );
  return crc32cFinish(body, header);
}

/** The checksum of a record, if `crc` is that of its body. */
export function crc32cFinish(crc: u32, header: usize): u32 {
  const w0 = load<u32>(header) ^ crc;
  const w1 = load<u32>(header, 4);
  const w2 = load<u32>(header, 8);
  const w3 = load<u32>(header, 12);
  const w4 = load<u32>(header, 16);
  return ~(
    load<u32>((w4 << 2) & BYTE, TABLES + 3 * KB) ^
    load<u32>((w4 >>> 6) & BYTE, TABLES + 2 * KB) ^
    load<u32>((w4 >>> 14) & BYTE, TABLES + 1 * KB) ^
    load<u32>((w4 >>> 22) & BYTE, TABLES) ^
    load<u32>((w3 << 2) & BYTE, TABLES + 7 * KB) ^
    load<u32>((w3 >>> 6) & BYTE, TABLES + 6 * KB) ^
    load<u32>((w3 >>> 14) & BYTE, TABLES + 5 * KB) ^
    load<u32>((w3 >>> 22) & BYTE, TABLES + 4 * KB) ^
    load<u32>((w2 << 2) & BYTE, TABLES + 11 * KB) ^
    load<u32>((w2 >>> 6) & BYTE, TABLES + 10 * KB) ^
    load<u32>((w2 >>> 14) & BYTE, TABLES + 9 * KB) ^
    load<u32>((w2 >>> 22) & BYTE, TABLES + 8 * KB) ^
    load<u32>((w1 << 2) & BYTE, TABLES + 15 * KB) ^
    load<u32>((w1 >>> 6) & BYTE, TABLES + 14 * KB) ^
    load<u32>((w1 >>> 14) & BYTE, TABLES + 13 * KB) ^
    load<u32>((w1 >>> 22) & BYTE, TABLES + 12 * KB) ^
    (load<u32>((w0 << 2) & BYTE, TABLES + 19 * KB) ^
      load<u32>((w0 >>> 6) & BYTE, TABLES + 18 * KB) ^
      load<u32>((w0 >>> 14) & BYTE, TABLES + 17 * KB) ^
      load<u32>((w0 >>> 22) & BYTE, TABLES + 16 * KB))
  );
}

/**
 * The remainder after the sixteen bytes in `w0` to `w3`, to which `seed` is added, and those from
 * `at` to `to`, a number of whole steps.
 */
function steps(w0: u32, w1: u32, w2: u32, w3: u32, seed: u32, at: usize, to: usize): u32 {
  let crc = seed;
  for (; ; at += 16) {
    crc ^=
      load<u32>((w3 << 2) & BYTE, TABLES + 3 * KB) ^
      load<u32>((w3 >>> 6) & BYTE, TABLES + 2 * KB) ^
      load<u32>((w3 >>> 14) & BYTE, TABLES + 1 * KB) ^
      load<u32>((w3 >>> 22) & BYTE, TABLES) ^
      load<u32>((w2 << 2) & BYTE, TABLES + 7 * KB) ^
      load<u32>((w2 >>> 6) & BYTE, TABLES + 6 * KB) ^
      load<u32>((w2 >>> 14) & BYTE, TABLES + 5 * KB) ^
      load<u32>((w2 >>> 22) & BYTE, TABLES + 4 * KB) ^
      load<u32>((w1 << 2) & BYTE, TABLES + 11 * KB) ^
      load<u32>((w1 >>> 6) & BYTE, TABLES + 10 * KB) ^
      load<u32>((w1 >>> 14) & BYTE, TABLES + 9 * KB) ^
      load<u32>((w1 >>> 22) & BYTE, TABLES + 8 * KB) ^
      (load<u32>((w0 << 2) & BYTE, TABLES + 15 * KB) ^
        load<u32>((w0 >>> 6) & BYTE, TABLES + 14 * KB) ^
        load<u32>((w0 >>> 14) & BYTE, TABLES + 13 * KB) ^
        load<u32>((w0 >>> 22) & BYTE, TABLES + 12 * KB));
    if (at == to) break;
    w0 = load<u32>(at) ^ crc;
    w1 = load<u32>(at, 4);
    w2 = load<u32>(at, 8);
    w3 = load<u32>(at, 12);
    crc = 0;
  }
  return crc;
}

function makeTables(): void {
  for (let byte: u32 = 0; byte < 256; byte++) {
    let remainder = byte;
    for (let bit = 0; bit < 8; bit++) {
      remainder = (remainder >>> 1) ^ (remainder & 1 ? POLYNOMIAL_REVERSED : 0);
    }
    store<u32>(TABLES + (byte << 2), remainder);
  }
  for (let at = TABLES; at < TABLES + 19 * KB; at += 4) {
    const shorter = load<u32>(at);
    store<u32>(at + KB, load<u32>((shorter << 2) & BYTE, TABLES) ^ (shorter >>> 8));
  }
  memory.fill(ONES + 16, 0xff, 16);
  store<u32>(SEED + 16, CRC32C_START);
}
