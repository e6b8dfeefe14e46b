/** The first packet: what each kind parses to, what is refused and in which words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import {
  PROTOCOL_VERSION,
  STARTUP_PACKET_BYTES_MAX,
  type SessionStartup,
  cleanApplicationName,
  cutName,
  encodeCancelRequest,
  encodeGssRequest,
  encodeSessionStartup,
  encodeSslRequest,
  encodeStartup,
  negotiation,
  parseStartupPacket,
  replicationMode,
} from './startup.ts';

/** A packet's body from its version and the rest, `|` standing for a zero byte. */
function body(rest: string, version = PROTOCOL_VERSION): Buffer {
  const head = Buffer.alloc(4);
  head.writeUInt32BE(version);
  return Buffer.concat([head, Buffer.from(rest.replaceAll('|', '\0'))]);
}

function parseSession(packet: Uint8Array): SessionStartup {
  const startup = parseStartupPacket(packet);
  assert.ok(startup.kind === 'startup');
  return startup;
}

test('a startup message has the bytes of the manual', () => {
  const encoded = encodeStartup({ user: 'u', replication: 'true' });
  assert.equal(encoded.toString('latin1'), '\0\0\0\x21\0\x03\0\0user\0u\0replication\0true\0\0');
  assert.equal(encodeStartup({}, 196610).toString('hex'), '000000090003000200');
});

test('what a walreceiver sends is parsed', () => {
  const packet = body(
    'user|repl|database|replication|replication|true|application_name|standby1||',
  );
  assert.deepEqual(parseStartupPacket(packet), {
    kind: 'startup',
    majorVersion: 3,
    minorVersion: 0,
    parameters: new Map([
      ['user', 'repl'],
      ['database', 'replication'],
      ['replication', 'true'],
      ['application_name', 'standby1'],
    ]),
    protocolExtensions: new Map(),
  });
});

test('the last value of a name wins, and an empty value is a value', () => {
  const { parameters } = parseSession(body('user|a|x|1|user|b|x|||'));
  assert.deepEqual(
    [...parameters],
    [
      ['user', 'b'],
      ['x', ''],
    ],
  );
});

test('protocol extensions are kept apart from parameters', () => {
  const { parameters, protocolExtensions } = parseSession(body('_pq_.a|1|user|u|_pq_.b|||'));
  assert.deepEqual([...parameters.keys()], ['user']);
  assert.deepEqual(
    [...protocolExtensions],
    [
      ['_pq_.a', '1'],
      ['_pq_.b', ''],
    ],
  );
});

test('a startup that was parsed is encoded with its version, extensions and last values', () => {
  const packet = body('2|x|user|a|1|y|_pq_.a|1|user|b|__proto__|z|_pq_.b|||', 196610);
  const encoded = encodeSessionStartup(parseSession(packet));
  const expected = body('2|x|user|b|1|y|__proto__|z|_pq_.a|1|_pq_.b|||', 196610);
  assert.equal(encoded.subarray(4).toString('latin1'), expected.toString('latin1'));
  assert.equal(encoded.readUInt32BE(0), encoded.length);
});

test('a name is cut to 63 bytes, as servers cut it, but never within a character', () => {
  for (const [name, cut] of [
    ['postgres', 'postgres'],
    ['', ''],
    ['n'.repeat(63), 'n'.repeat(63)],
    ['n'.repeat(64), 'n'.repeat(63)],
    [`${'n'.repeat(62)}ö`, 'n'.repeat(62)],
    [`${'n'.repeat(61)}ö`, `${'n'.repeat(61)}ö`],
    [`${'n'.repeat(60)}😀`, 'n'.repeat(60)],
  ] as const) {
    assert.equal(cutName(name), cut);
  }
});

test('requests for TLS and for GSS encryption are recognised', () => {
  assert.equal(encodeSslRequest().toString('hex'), '0000000804d2162f');
  assert.equal(encodeGssRequest().toString('hex'), '0000000804d21630');
  assert.deepEqual(parseStartupPacket(encodeSslRequest().subarray(4)), { kind: 'ssl-request' });
  assert.deepEqual(parseStartupPacket(encodeGssRequest().subarray(4)), { kind: 'gss-request' });
});

test('a cancel request carries a process id and a key of 4 to 256 bytes', () => {
  const encoded = encodeCancelRequest(-2, Buffer.from([1, 2, 3, 4]));
  assert.equal(encoded.toString('hex'), '0000001004d2162efffffffe01020304');
  assert.deepEqual(parseStartupPacket(encoded.subarray(4)), {
    kind: 'cancel',
    processId: -2,
    key: Buffer.from([1, 2, 3, 4]),
  });
  const withKey = (bytes: number): Buffer =>
    encodeCancelRequest(1, Buffer.alloc(bytes)).subarray(4);
  assert.equal(parseStartupPacket(withKey(256)).kind, 'cancel');
  for (const bytes of [0, 3, 257]) {
    assert.throws(() => parseStartupPacket(withKey(bytes)), {
      sqlstate: '08P01',
      message: 'invalid length of query cancel packet',
    });
  }
});

const layout = 'invalid startup packet layout: expected terminator as last byte';
const refusals: [string, Buffer, string, string][] = [
  ['without a terminator', body('user|u|'), '08P01', layout],
  ['with a name alone', body('user|'), '08P01', layout],
  ['with a string that does not end', body('user|u|x'), '08P01', layout],
  ['with bytes after the terminator', body('user|u||x|'), '08P01', layout],
  ['with two terminators', body('user|u|||'), '08P01', layout],
  ['without anything after the version', body(''), '08P01', layout],
  [
    'without a user',
    body('database|d||'),
    '28000',
    'no PostgreSQL user name specified in startup packet',
  ],
  [
    'with an empty user',
    body('user|||'),
    '28000',
    'no PostgreSQL user name specified in startup packet',
  ],
  [
    'of protocol 2',
    body('', 0x20000),
    '0A000',
    'unsupported frontend protocol 2.0: server supports 3.0 to 3.0',
  ],
  [
    'of protocol 4.1',
    body('user|u||', 0x40001),
    '0A000',
    'unsupported frontend protocol 4.1: server supports 3.0 to 3.0',
  ],
  ['of three bytes', Buffer.alloc(3), '08P01', 'invalid length of startup packet'],
  [
    'of more than 10,000 bytes',
    body(`user|${'u'.repeat(STARTUP_PACKET_BYTES_MAX)}||`),
    '08P01',
    'invalid length of startup packet',
  ],
];

for (const [what, packet, sqlstate, message] of refusals) {
  test(`a packet ${what} is refused in PostgreSQL's words`, () => {
    assert.throws(() => parseStartupPacket(packet), { sqlstate, message });
  });
}

test('a startup packet that is cut anywhere is refused', () => {
  const packet = body('user|u|replication|true||');
  for (let length = 0; length < packet.length; length++) {
    assert.throws(() => parseStartupPacket(packet.subarray(0, length)), WalcadeError);
  }
});

test('any packet is parsed or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.uint8Array(), (noise, rest) => {
      for (const packet of [noise, Buffer.concat([body(''), rest])]) {
        try {
          parseStartupPacket(packet);
        } catch (error) {
          assert.ok(error instanceof WalcadeError);
        }
      }
    }),
  );
});

test('all parameters come back as they were sent', () => {
  const text = fc
    .string({ unit: 'grapheme', minLength: 1 })
    .filter((value) => !value.includes('\0') && !value.startsWith('_pq_.'));
  fc.assert(
    fc.property(fc.dictionary(text, text), text, (others, user) => {
      const parameters = { ...others, user };
      const startup = parseSession(encodeStartup(parameters).subarray(4));
      assert.deepEqual(startup.parameters, new Map(Object.entries(parameters)));
    }),
  );
});

test('replication takes every spelling of a boolean that PostgreSQL takes', () => {
  const physical = ['true', 'TRUE', 'tr', 't', 'yes', 'y', 'Ye', 'on', 'ON', '1'];
  const none = ['false', 'f', 'Fa', 'no', 'n', 'NO', 'off', 'of', 'OFF', '0'];
  for (const value of physical) assert.equal(replicationMode(value), 'physical', value);
  for (const value of none) assert.equal(replicationMode(value), 'none', value);
  assert.equal(replicationMode(undefined), 'none');
  assert.equal(replicationMode('database'), 'database');
});

test('a value of replication that is neither boolean nor "database" is refused', () => {
  for (const value of ['bogus', '', 'o', 'Database', 'truex', ' on', '2', '01', 'data']) {
    assert.throws(() => replicationMode(value), {
      sqlstate: '22023',
      message: `invalid value for parameter "replication": "${value}"`,
      hint: 'Valid values are: "false", 0, "true", 1, "database".',
    });
  }
});

test('a version is negotiated only if the client asked for more than 3.0', () => {
  const negotiate = (rest: string, version?: number): unknown =>
    negotiation(parseSession(body(rest, version)));
  assert.equal(negotiate('user|u||'), undefined);
  assert.deepEqual(negotiate('user|u||', 196610), { version: 196608, unrecognized: [] });
  assert.deepEqual(negotiate('user|u||', 206607), { version: 196608, unrecognized: [] });
  assert.deepEqual(negotiate('user|u|_pq_.a|1||'), { version: 196608, unrecognized: ['_pq_.a'] });
  // What is known is no reason to negotiate.
  const both = parseSession(body('user|u|_pq_.a|1|_pq_.b|1||'));
  assert.deepEqual(negotiation(both, ['_pq_.a'])?.unrecognized, ['_pq_.b']);
  assert.equal(negotiation(both, ['_pq_.a', '_pq_.b']), undefined);
});

test('an application name is printable and as long as a name may be', () => {
  for (const [name, clean] of [
    ['walreceiver', 'walreceiver'],
    ['', ''],
    [' a~', ' a~'],
    ['a\nLOG:  b', 'a\\x0aLOG:  b'],
    ['\u007fö', '\\x7f\\xc3\\xb6'],
    ['n'.repeat(70), 'n'.repeat(63)],
    [`${'n'.repeat(62)}ö`, `${'n'.repeat(62)}\\`],
  ] as const) {
    assert.equal(cleanApplicationName(name), clean);
  }
});
