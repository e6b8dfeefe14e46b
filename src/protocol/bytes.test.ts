/** ByteReader and the builders of messages, proven on values and on any bytes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import { ByteReader, cstring, int16, int32, int8, message, packet, uint32 } from './bytes.ts';

const unspaced = (digits: string): string => digits.replaceAll(' ', '');

test('a reader returns each kind of value from front to back', () => {
  const body = Buffer.from(
    unspaced('ff fe fffd fffffffc fffffffb fffffffffffffffa 00000001000000ff 02 c3a900 aabb cc'),
    'hex',
  );
  const reader = new ByteReader(body, 'x');
  assert.equal(reader.uint8(), 255);
  assert.equal(reader.int8(), -2);
  assert.equal(reader.int16(), -3);
  assert.equal(reader.int32(), -4);
  assert.equal(reader.uint32(), 0xfffffffb);
  assert.equal(reader.int64(), -6n);
  assert.equal(reader.lsn(), 0x1_0000_00ffn);
  assert.equal(reader.flag(), true);
  assert.equal(reader.cstring(), 'é');
  assert.deepEqual([...reader.bytes(2)], [0xaa, 0xbb]);
  assert.deepEqual([...reader.rest()], [0xcc]);
  reader.end();
});

test('a reader reads the part of memory that a view shows, and no other', () => {
  const memory = new Uint8Array([9, 9, 0, 7, 9]);
  const reader = new ByteReader(memory.subarray(2, 4), 'x');
  assert.equal(reader.int16(), 7);
  assert.throws(() => reader.uint8(), { sqlstate: '08P01' });
});

test('a body that is too short is refused with the least that its message needs', () => {
  assert.throws(() => new ByteReader(Buffer.alloc(8), 'k', 18), {
    sqlstate: '08P01',
    message: 'insufficient data left in message',
    detail: 'Message "k" has 8 bytes, at least 18 are needed.',
  });
  assert.throws(() => new ByteReader(Buffer.alloc(3), 'S').int32(), {
    detail: 'Message "S" has 3 bytes, at least 4 are needed.',
  });
});

test('a body that is too long is refused', () => {
  const reader = new ByteReader(Buffer.alloc(3), 'Z');
  reader.uint8();
  assert.throws(() => reader.end(), {
    sqlstate: '08P01',
    message: 'invalid message format',
    detail: 'Message "Z" has 3 bytes, 1 are needed.',
  });
});

test('a string without an end is refused, and so is a negative count of bytes', () => {
  assert.throws(() => new ByteReader(Buffer.from('abc'), 'Q').cstring(), {
    sqlstate: '08P01',
    message: 'invalid string in message',
  });
  assert.throws(() => new ByteReader(Buffer.from('abc'), 'D').bytes(-2), { sqlstate: '08P01' });
});

test('bytes that are not UTF-8 become the replacement character', () => {
  assert.equal(new ByteReader(Buffer.from([0x61, 0xff, 0]), 'Q').cstring(), 'a\ufffd');
});

test('whatever is read from whatever bytes, a reader answers or refuses with 08P01', () => {
  const step = fc.constantFrom(
    'uint8',
    'int8',
    'int16',
    'uint16',
    'int32',
    'uint32',
    'int64',
    'lsn',
    'flag',
    'cstring',
    'rest',
    'end',
  ) as fc.Arbitrary<'uint8' | 'lsn' | 'cstring' | 'rest' | 'end'>;
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 40 }), fc.array(step), (body, steps) => {
      const reader = new ByteReader(body, 'x');
      try {
        for (const name of steps) reader[name]();
      } catch (error) {
        assert.ok(error instanceof WalcadeError);
        assert.equal(error.sqlstate, '08P01');
      }
    }),
  );
});

test('a message is its type, its length without the type, and its parts', () => {
  assert.equal(message('c').toString('hex'), '6300000004');
  const parts = [int8(-1), int16(2), int32(-3), uint32(0xffffffff), cstring('é')];
  assert.equal(
    message('x', ...parts).toString('hex'),
    unspaced('78 00000012 ff 0002 fffffffd ffffffff c3a900'),
  );
  assert.equal(packet(int16(1)).toString('hex'), '000000060001');
});

test('a string that holds a zero byte is refused without being repeated', () => {
  assert.throws(() => cstring('secret\0x'), {
    sqlstate: '22023',
    message: 'string of 8 characters contains a zero byte',
  });
});
