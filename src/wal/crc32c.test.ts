/** CRC-32C against published values and a bitwise one. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { CRC32C_START, crc32c, crc32cFinish, crc32cUpdate } from './crc32c.ts';

function bitwise(bytes: Uint8Array): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  return ~crc >>> 0;
}

describe('CRC-32C', () => {
  it('gives the check values of RFC 3720, B.4', () => {
    assert.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
    assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa);
    assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
    assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
    assert.equal(crc32c(new Uint8Array(0)), 0);
  });

  it('agrees with a bitwise CRC for bytes of any length at any alignment', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(20), (bytes, skipped) => {
        assert.equal(crc32c(bytes.subarray(skipped)), bitwise(bytes.subarray(skipped)));
      }),
    );
  });

  it('is the same for bytes that come in pieces', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.nat(200), (bytes, cut) => {
        const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
        const middle = Math.min(cut, bytes.length);
        const first = crc32cUpdate(CRC32C_START, view, 0, middle);
        const both = crc32cUpdate(first, view, middle, bytes.length);
        assert.equal(crc32cFinish(both) >>> 0, bitwise(bytes));
      }),
    );
  });
});
