/** SCRAM-SHA-256 and md5: the published vector, and a server that does not keep to the rules. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import { SCRAM_ITERATIONS_MAX, ScramClient, deriveScramKeys, md5Password } from './scram.ts';

const NONCE = 'rOprNGfwEbeRWgbNEkqO';
const SERVER_NONCE = `${NONCE}%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0`;
const SALT = 'W22ZaJ0SNY7soEsUEjb6gQ==';
const SERVER_FIRST = `r=${SERVER_NONCE},s=${SALT},i=4096`;
const SERVER_FINAL = 'v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=';

function client(): ScramClient {
  return new ScramClient('pencil', { user: 'user', nonce: NONCE });
}

test('the exchange of RFC 7677 is reproduced', () => {
  const scram = client();
  assert.equal(scram.firstMessage, `n,,n=user,r=${NONCE}`);
  assert.equal(
    scram.answer(SERVER_FIRST),
    `c=biws,r=${SERVER_NONCE},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=`,
  );
  scram.verify(SERVER_FINAL);
});

test('the name is left out unless one is given, and nonces differ', () => {
  const first = new ScramClient('x').firstMessage;
  assert.match(first, /^n,,n=,r=[A-Za-z0-9+/]{24}$/);
  assert.notEqual(first, new ScramClient('x').firstMessage);
});

test('keys come from the prepared password: composed and decomposed are the same', () => {
  const salt = Buffer.from('salt');
  const keys = (password: string): unknown => deriveScramKeys(password, { salt, iterations: 1 });
  assert.deepEqual(keys('caf\u00e9'), keys('cafe\u0301'));
  assert.notDeepEqual(keys('café'), keys('cafe'));
});

const malformed: [string, string, string][] = [
  ['', '08P01', 'malformed SCRAM message (empty message)'],
  ['x', '08P01', 'malformed SCRAM message (attribute "r" expected)'],
  [`r=${SERVER_NONCE}`, '08P01', 'malformed SCRAM message (attribute "s" expected)'],
  [`r=${SERVER_NONCE},s=${SALT}`, '08P01', 'malformed SCRAM message (attribute "i" expected)'],
  [`r=${SERVER_NONCE},s=,i=1`, '08P01', 'malformed SCRAM message (invalid salt)'],
  [`r=${SERVER_NONCE},s=?,i=1`, '08P01', 'malformed SCRAM message (invalid salt)'],
  ...['0', '-1', '1x', '', '01', '99999999999'].map((count): [string, string, string] => [
    `r=${SERVER_NONCE},s=${SALT},i=${count}`,
    '08P01',
    'malformed SCRAM message (invalid iteration count)',
  ]),
  [
    `${SERVER_FIRST},x=1`,
    '08P01',
    'malformed SCRAM message (garbage at end of server-first-message)',
  ],
  [`r=${NONCE},s=${SALT},i=1`, '08P01', 'invalid SCRAM response (nonce mismatch)'],
  [`r=other,s=${SALT},i=1`, '08P01', 'invalid SCRAM response (nonce mismatch)'],
  [
    `r=${SERVER_NONCE},s=${SALT},i=${SCRAM_ITERATIONS_MAX + 1}`,
    '54000',
    'SCRAM iteration count 2000001 exceeds the limit of 2000000',
  ],
];

test("a server's first message that cannot be one is refused", () => {
  for (const [text, sqlstate, message] of malformed) {
    assert.throws(() => client().answer(text), { sqlstate, message }, text);
  }
});

test('a server that does not know the password is refused', () => {
  const finals: [string, string, string][] = [
    [SERVER_FINAL.replace('6rri', '7rri'), '28000', 'incorrect server signature'],
    ['v=AAAA', '08P01', 'malformed SCRAM message (invalid server signature)'],
    ['v=?', '08P01', 'malformed SCRAM message (invalid server signature)'],
    [`${SERVER_FINAL},x=1`, '08P01', 'malformed SCRAM message (invalid server signature)'],
    ['', '08P01', 'malformed SCRAM message (empty message)'],
    ['x=1', '08P01', 'malformed SCRAM message (attribute "v" expected)'],
    ['e=no', '28P01', 'error received from server in SCRAM exchange: no'],
  ];
  for (const [text, sqlstate, message] of finals) {
    const scram = client();
    scram.answer(SERVER_FIRST);
    assert.throws(() => scram.verify(text), { sqlstate, message }, text);
  }
});

test('any server message is answered or refused', () => {
  const part = fc.constantFrom(`r=${SERVER_NONCE}`, `s=${SALT}`, 'i=1', 'v=AA==', ',', '=', 'e=');
  const text = fc.oneof(
    fc.array(part).map((parts) => parts.join(',')),
    fc.string(),
  );
  const proven = client();
  proven.answer(SERVER_FIRST);
  fc.assert(
    fc.property(text, (message) => {
      for (const step of [() => client().answer(message), () => proven.verify(message)]) {
        try {
          step();
        } catch (error) {
          assert.ok(error instanceof WalcadeError);
        }
      }
    }),
  );
});

test('the md5 answer is that of libpq', () => {
  // The inner hash is md5('secretrepl') in hex; computed with another implementation.
  assert.equal(
    md5Password('repl', 'secret', Buffer.from([1, 2, 3, 4])),
    'md5b3a28fe140b644455fccd78ea2101699',
  );
});
