/** What a server sends: exact bytes once each, there and back, cut short, and too long. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import {
  type AuthenticationRequest,
  BACKEND,
  COPY_DONE,
  TYPE_OID,
  decodeAuthentication,
  decodeBackendKeyData,
  decodeCommandComplete,
  decodeDataRow,
  decodeNegotiateProtocolVersion,
  decodeParameterStatus,
  decodeRowDescription,
  encodeAuthentication,
  encodeBackendKeyData,
  encodeCommandComplete,
  encodeCopyBothResponse,
  encodeCopyInResponse,
  encodeCopyOutResponse,
  encodeDataRow,
  encodeNegotiateProtocolVersion,
  encodeParameterStatus,
  encodeReadyForQuery,
  encodeRowDescription,
} from './backend-messages.ts';

interface Example {
  name: string;
  encoded: Buffer;
  bytes: string;
  type: number;
  decode: (body: Uint8Array) => unknown;
  decoded: unknown;
  /** Bytes at the end that belong to a value of free length: cutting them is no error. */
  free?: number;
}

function authentication(request: AuthenticationRequest, bytes: string, free = 0): Example {
  return {
    name: `Authentication ${request.kind}`,
    encoded: encodeAuthentication(request),
    bytes,
    type: BACKEND.AUTHENTICATION,
    decode: decodeAuthentication,
    decoded: request,
    free,
  };
}

const examples: Example[] = [
  authentication({ kind: 'ok' }, '52 00000008 00000000'),
  authentication({ kind: 'cleartext-password' }, '52 00000008 00000003'),
  authentication(
    { kind: 'md5-password', salt: Buffer.from([1, 2, 3, 4]) },
    '52 0000000c 00000005 01020304',
  ),
  authentication({ kind: 'sasl', mechanisms: ['A', 'BC'] }, '52 0000000e 0000000a 4100 424300 00'),
  authentication(
    { kind: 'sasl-continue', data: Buffer.from('r=') },
    '52 0000000a 0000000b 723d',
    2,
  ),
  authentication({ kind: 'sasl-final', data: Buffer.from('v=') }, '52 0000000a 0000000c 763d', 2),
  authentication({ kind: 'other', method: 9 }, '52 00000008 00000009'),
  {
    name: 'BackendKeyData',
    encoded: encodeBackendKeyData(4711, Buffer.from([1, 2, 3, 4])),
    bytes: '4b 0000000c 00001267 01020304',
    type: BACKEND.BACKEND_KEY_DATA,
    decode: decodeBackendKeyData,
    decoded: { processId: 4711, key: Buffer.from([1, 2, 3, 4]) },
  },
  {
    name: 'CommandComplete',
    encoded: encodeCommandComplete('COPY 0'),
    bytes: '43 0000000b 434f5059203000',
    type: BACKEND.COMMAND_COMPLETE,
    decode: decodeCommandComplete,
    decoded: 'COPY 0',
  },
  {
    name: 'DataRow',
    encoded: encodeDataRow(['é', Buffer.from([0]), null, '']),
    bytes: '44 00000019 0004 00000002c3a9 0000000100 ffffffff 00000000',
    type: BACKEND.DATA_ROW,
    decode: decodeDataRow,
    decoded: [Buffer.from('é'), Buffer.from([0]), null, Buffer.alloc(0)],
  },
  {
    name: 'NegotiateProtocolVersion',
    encoded: encodeNegotiateProtocolVersion(196608, ['_pq_.a']),
    bytes: '76 00000013 00030000 00000001 5f70715f2e6100',
    type: BACKEND.NEGOTIATE_PROTOCOL_VERSION,
    decode: decodeNegotiateProtocolVersion,
    decoded: { version: 196608, unrecognized: ['_pq_.a'] },
  },
  {
    name: 'ParameterStatus',
    encoded: encodeParameterStatus('a', 'on'),
    bytes: '53 00000009 6100 6f6e00',
    type: BACKEND.PARAMETER_STATUS,
    decode: decodeParameterStatus,
    decoded: { name: 'a', value: 'on' },
  },
  {
    name: 'RowDescription',
    encoded: encodeRowDescription([
      { name: 'a', typeOid: TYPE_OID.TEXT },
      { name: 'b', typeOid: TYPE_OID.INT8, typeBytes: -1, typeModifier: 0 },
    ]),
    bytes:
      '54 0000002e 0002' +
      '6100 00000000 0000 00000019 ffff ffffffff 0000' +
      '6200 00000000 0000 00000014 ffff 00000000 0000',
    type: BACKEND.ROW_DESCRIPTION,
    decode: decodeRowDescription,
    decoded: [
      { name: 'a', typeOid: 25 },
      { name: 'b', typeOid: 20 },
    ],
  },
];

for (const { name, encoded, bytes, type, decode, decoded, free = 0 } of examples) {
  test(`${name} has the bytes of the manual and comes back as it was sent`, () => {
    assert.equal(encoded.toString('hex'), bytes.replaceAll(' ', ''));
    assert.equal(encoded[0], type);
    assert.deepEqual(decode(encoded.subarray(5)), decoded);
  });

  test(`${name} is refused if it is cut anywhere or goes on after its end`, () => {
    const body = encoded.subarray(5);
    for (let length = 0; length < body.length - free; length++) {
      assert.throws(() => decode(body.subarray(0, length)), { sqlstate: '08P01' });
    }
    if (free > 0 || type === BACKEND.BACKEND_KEY_DATA || name.endsWith('other')) return;
    assert.throws(() => decode(Buffer.concat([body, Buffer.from('x')])), { sqlstate: '08P01' });
  });

  test(`any body is a ${name} or refused with 08P01`, () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), (noise) => {
        for (const body of [noise, Buffer.concat([encoded.subarray(5, 9), noise])]) {
          try {
            decode(body);
          } catch (error) {
            assert.ok(error instanceof WalcadeError);
            assert.equal(error.sqlstate, '08P01');
          }
        }
      }),
    );
  });
}

test('a session is ready, and never inside a transaction', () => {
  assert.equal(encodeReadyForQuery().toString('hex'), '5a0000000549');
});

test('the three copy responses announce no columns', () => {
  assert.equal(encodeCopyBothResponse().toString('hex'), '5700000007000000');
  assert.equal(encodeCopyInResponse().toString('hex'), '4700000007000000');
  assert.equal(encodeCopyOutResponse().toString('hex'), '4800000007000000');
  assert.equal(COPY_DONE.toString('hex'), '6300000004');
});

test("a column has its type's size unless another is given", () => {
  const sizes = [TYPE_OID.BYTEA, TYPE_OID.INT8, TYPE_OID.INT4, TYPE_OID.TEXT, TYPE_OID.OID].map(
    (typeOid) => encodeRowDescription([{ name: '', typeOid }]).readInt16BE(5 + 2 + 1 + 4 + 2 + 4),
  );
  assert.deepEqual(sizes, [-1, 8, 4, -1, 4]);
});

test('a cancel key has up to 256 bytes', () => {
  const body = (keyBytes: number): Buffer =>
    encodeBackendKeyData(1, Buffer.alloc(keyBytes, 7)).subarray(5);
  assert.equal(decodeBackendKeyData(body(32)).key.length, 32);
  assert.equal(decodeBackendKeyData(body(256)).key.length, 256);
  assert.throws(() => decodeBackendKeyData(body(257)), { sqlstate: '08P01' });
});

test('every row comes back as it was sent', () => {
  const column = fc.oneof(
    fc.constant(null),
    fc.uint8Array().map((bytes) => Buffer.from(bytes)),
  );
  fc.assert(
    fc.property(fc.array(column), (columns) => {
      assert.deepEqual(decodeDataRow(encodeDataRow(columns).subarray(5)), columns);
    }),
  );
});
