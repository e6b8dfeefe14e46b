/** The messages inside CopyData: exact bytes once each, there and back, cut short, too long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import { lsn } from '../wal/lsn.ts';
import {
  WAL_DATA_HEADER_BYTES,
  decodeHotStandbyFeedback,
  decodeKeepalive,
  decodeStatusUpdate,
  decodeWalDataHeader,
  encodeHotStandbyFeedback,
  encodeKeepalive,
  encodeStatusUpdate,
  encodeWalDataFrame,
} from './replication-messages.ts';

const hex = (encoded: Buffer): string => encoded.toString('hex');

const header = { start: lsn(0x1_0000_0000n), walEnd: lsn(0xffff_ffff_ffff_ffffn), sentAt: -2n };
const keepalive = { walEnd: lsn(0x500_0028n), sentAt: 5n, replyRequested: true };
const status = {
  write: lsn(3n),
  flush: lsn(2n),
  apply: lsn(0xffff_ffff_ffff_ffffn),
  sentAt: 1n,
  replyRequested: false,
};
const feedback = { sentAt: 9n, xmin: 0x2_0000_0003n, catalogXmin: 0n };

const unspaced = (digits: string): string => digits.replaceAll(' ', '');

test('WalData is framed by 30 bytes that announce the WAL after them', () => {
  assert.equal(
    hex(encodeWalDataFrame(header, 131_072)),
    unspaced('64 0002001d 77 0000000100000000 ffffffffffffffff fffffffffffffffe'),
  );
});

test('each other message has the bytes of the manual', () => {
  assert.equal(
    hex(encodeKeepalive(keepalive)),
    unspaced('64 00000016 6b 0000000005000028 0000000000000005 01'),
  );
  assert.equal(
    hex(encodeStatusUpdate(status)),
    unspaced(
      '64 00000026 72 0000000000000003 0000000000000002 ffffffffffffffff 0000000000000001 00',
    ),
  );
  assert.equal(
    hex(encodeHotStandbyFeedback(feedback)),
    unspaced('64 0000001d 68 0000000000000009 00000003 00000002 0000000000000000'),
  );
});

const messages: [string, Buffer, (body: Uint8Array) => unknown, unknown][] = [
  ['WalData', encodeWalDataFrame(header, 0), decodeWalDataHeader, header],
  ['Keepalive', encodeKeepalive(keepalive), decodeKeepalive, keepalive],
  ['StatusUpdate', encodeStatusUpdate(status), decodeStatusUpdate, status],
  ['HotStandbyFeedback', encodeHotStandbyFeedback(feedback), decodeHotStandbyFeedback, feedback],
];

for (const [name, encoded, decode, value] of messages) {
  const body = encoded.subarray(5);

  test(`a ${name} comes back as it was sent`, () => {
    assert.deepEqual(decode(body), value);
  });

  test(`a ${name} that is cut anywhere is refused with the bytes that it needs`, () => {
    const type = String.fromCharCode(body[0] ?? 0);
    for (let length = 0; length < body.length; length++) {
      assert.throws(() => decode(body.subarray(0, length)), {
        sqlstate: '08P01',
        detail: `Message "${type}" has ${length} bytes, at least ${body.length} are needed.`,
      });
    }
  });

  test(`a ${name} of another type is refused`, () => {
    const other = Buffer.from(body);
    other[0] = 0x7a;
    assert.throws(() => decode(other), { sqlstate: '08P01', message: 'invalid message format' });
  });

  test(`any body is a ${name} or refused with 08P01`, () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (noise) => {
        for (const bytes of [noise, Buffer.concat([body.subarray(0, 1), noise])]) {
          try {
            decode(bytes);
          } catch (error) {
            assert.ok(error instanceof WalcadeError);
            assert.equal(error.sqlstate, '08P01');
          }
        }
      }),
    );
  });
}

test('what is longer than its message is refused, but for WalData, which WAL follows', () => {
  for (const [name, encoded, decode, value] of messages) {
    const longer = Buffer.concat([encoded.subarray(5), Buffer.from('wal')]);
    if (name === 'WalData') assert.deepEqual(decode(longer), value);
    else assert.throws(() => decode(longer), { sqlstate: '08P01' });
  }
  assert.equal(encodeWalDataFrame(header, 0).length, 5 + WAL_DATA_HEADER_BYTES);
});

test('any byte but zero asks for a reply', () => {
  const body = encodeKeepalive(keepalive).subarray(5);
  body[17] = 2;
  assert.equal(decodeKeepalive(body).replyRequested, true);
});

test('an xid of zero is none in every epoch, as a standby without an xmin sends it', () => {
  const body = encodeHotStandbyFeedback(feedback).subarray(5);
  body.writeUInt32BE(7, 21);
  assert.equal(decodeHotStandbyFeedback(body).catalogXmin, 0n);
});

test('every message comes back as it was sent', () => {
  const position = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn }).map(lsn);
  const time = fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n });
  const xid = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((id) => (id % 2n ** 32n ? id : 0n));
  fc.assert(
    fc.property(position, position, position, time, fc.boolean(), (a, b, c, sentAt, reply) => {
      const data = { start: a, walEnd: b, sentAt };
      assert.deepEqual(decodeWalDataHeader(encodeWalDataFrame(data, 1).subarray(5)), data);
      const alive = { walEnd: a, sentAt, replyRequested: reply };
      assert.deepEqual(decodeKeepalive(encodeKeepalive(alive).subarray(5)), alive);
      const update = { write: a, flush: b, apply: c, sentAt, replyRequested: reply };
      assert.deepEqual(decodeStatusUpdate(encodeStatusUpdate(update).subarray(5)), update);
    }),
  );
  fc.assert(
    fc.property(time, xid, xid, (sentAt, xmin, catalogXmin) => {
      const value = { sentAt, xmin, catalogXmin };
      const body = encodeHotStandbyFeedback(value).subarray(5);
      assert.deepEqual(decodeHotStandbyFeedback(body), value);
    }),
  );
});
