/** What a client sends: exact bytes once each, there and back, cut short, and too long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import {
  decodePassword,
  decodeQuery,
  decodeSaslInitialResponse,
  encodeCopyData,
  encodePassword,
  encodeQuery,
  encodeSaslInitialResponse,
  encodeSaslResponse,
  encodeTerminate,
} from './frontend-messages.ts';

const hex = (encoded: Buffer): string => encoded.toString('hex');

test('each message has the bytes of the manual', () => {
  assert.equal(hex(encodeQuery('SHOW é')), '510000000c53484f5720c3a900');
  assert.equal(hex(encodePassword('a')), '70000000066100');
  assert.equal(hex(encodeSaslInitialResponse('S', 'n,,')), '700000000d5300000000036e2c2c');
  assert.equal(hex(encodeSaslResponse('c=')), '7000000006633d');
  assert.equal(hex(encodeCopyData(Buffer.from('r'))), '640000000572');
  assert.equal(hex(encodeTerminate()), '5800000004');
});

test('a SASL first message without data has the length -1', () => {
  const body = Buffer.from('S\0\xff\xff\xff\xff', 'latin1');
  assert.deepEqual(decodeSaslInitialResponse(body), { mechanism: 'S', data: undefined });
});

const decoders: Record<string, (body: Uint8Array) => unknown> = {
  Password: decodePassword,
  Query: decodeQuery,
  SASLInitialResponse: decodeSaslInitialResponse,
};

test('a message that is cut anywhere or goes on after its end is refused', () => {
  const bodies: [(body: Uint8Array) => unknown, Buffer][] = [
    [decodePassword, encodePassword('reason')],
    [decodeQuery, encodeQuery('reason')],
    [decodeSaslInitialResponse, encodeSaslInitialResponse('S', 'n,,')],
  ];
  for (const [decode, encoded] of bodies) {
    const body = encoded.subarray(5);
    for (let length = 0; length < body.length; length++) {
      assert.throws(() => decode(body.subarray(0, length)), { sqlstate: '08P01' });
    }
    const longer = Buffer.concat([body, Buffer.from('x')]);
    assert.throws(() => decode(longer), { sqlstate: '08P01' });
  }
});

test('every text comes back as it was sent', () => {
  const text = fc.string({ unit: 'grapheme' }).filter((value) => !value.includes('\0'));
  fc.assert(
    fc.property(text, fc.uint8Array(), (value, bytes) => {
      assert.equal(decodeQuery(encodeQuery(value).subarray(5)), value);
      assert.equal(decodePassword(encodePassword(value).subarray(5)), value);
      const data = Buffer.from(bytes);
      const encoded = encodeSaslInitialResponse(value, data);
      assert.deepEqual(decodeSaslInitialResponse(encoded.subarray(5)), { mechanism: value, data });
    }),
  );
});

for (const [name, decode] of Object.entries(decoders)) {
  test(`any body is a ${name} or refused with 08P01`, () => {
    fc.assert(
      fc.property(fc.uint8Array(), (body) => {
        try {
          decode(body);
        } catch (error) {
          assert.ok(error instanceof WalcadeError);
          assert.equal(error.sqlstate, '08P01');
        }
      }),
    );
  });
}
