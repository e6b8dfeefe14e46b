/** Logging in to an upstream: each method, and an upstream that leaves the path. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assert as assertInvariant } from '../base/assert.ts';
import { type AuthenticationRequest } from './backend-messages.ts';
import { decodePassword, decodeSaslInitialResponse } from './frontend-messages.ts';
import { deriveScramKeys, scramServerSignature } from './scram.ts';
import { type Authenticator, createAuthenticator } from './upstream-authentication.ts';

const credentials = { user: 'repl', password: 'secret' };
const salt = Buffer.from([1, 2, 3, 4]);
const sasl: AuthenticationRequest = {
  kind: 'sasl',
  mechanisms: ['SCRAM-SHA-256-PLUS', 'SCRAM-SHA-256'],
};

function send(authenticator: Authenticator, request: AuthenticationRequest): Buffer {
  const answer = authenticator.answer(request);
  assertInvariant(answer !== 'done', 'the request needs an answer');
  return answer;
}

/** A SCRAM exchange up to the client's proof, and the final message that an honest server sends. */
function prove(authenticator: Authenticator): { final: AuthenticationRequest } {
  const { mechanism, data } = decodeSaslInitialResponse(send(authenticator, sasl).subarray(5));
  assert.equal(mechanism, 'SCRAM-SHA-256');
  const clientFirst = String(data).replace('n,,', '');
  const nonce = `${clientFirst.replace('n=,r=', '')}server`;
  const serverFirst = `r=${nonce},s=${salt.toString('base64')},i=4096`;
  const request = { kind: 'sasl-continue', data: Buffer.from(serverFirst) } as const;
  const clientFinal = send(authenticator, request).subarray(5).toString();
  const withoutProof = clientFinal.slice(0, clientFinal.indexOf(',p='));
  const { serverKey } = deriveScramKeys(credentials.password, { salt, iterations: 4096 });
  const authMessage = `${clientFirst},${serverFirst},${withoutProof}`;
  const signature = scramServerSignature(serverKey, authMessage).toString('base64');
  return { final: { kind: 'sasl-final', data: Buffer.from(`v=${signature}`) } };
}

test('a server that trusts us is believed', () => {
  const authenticator = createAuthenticator({ user: 'repl', password: undefined });
  assert.equal(authenticator.accepted, false);
  assert.equal(authenticator.answer({ kind: 'ok' }), 'done');
  assert.equal(authenticator.accepted, true);
});

test('a request for the password is answered with it, once', () => {
  const authenticator = createAuthenticator(credentials);
  const answer = send(authenticator, { kind: 'cleartext-password' });
  assert.equal(decodePassword(answer.subarray(5)), 'secret');
  assert.throws(() => authenticator.answer({ kind: 'cleartext-password' }), { sqlstate: '08P01' });
  assert.equal(authenticator.answer({ kind: 'ok' }), 'done');
});

test('a request for an md5 password is answered with the hash', () => {
  const answer = send(createAuthenticator(credentials), { kind: 'md5-password', salt });
  assert.match(decodePassword(answer.subarray(5)), /^md5[0-9a-f]{32}$/);
});

test('SCRAM is completed with a server that knows the password', () => {
  const authenticator = createAuthenticator(credentials);
  const { final } = prove(authenticator);
  assert.equal(authenticator.answer(final), 'done');
  assert.equal(authenticator.accepted, false);
  assert.equal(authenticator.answer({ kind: 'ok' }), 'done');
  assert.equal(authenticator.accepted, true);
});

test('a server cannot end SCRAM before it has proven itself', () => {
  const message = 'server did not complete authentication';
  const begun = createAuthenticator(credentials);
  begun.answer(sasl);
  assert.throws(() => begun.answer({ kind: 'ok' }), { sqlstate: '08P01', message });
  const proven = createAuthenticator(credentials);
  prove(proven);
  assert.throws(() => proven.answer({ kind: 'ok' }), { sqlstate: '08P01', message });
});

test('a server cannot ask for the password once SCRAM has begun', () => {
  const authenticator = createAuthenticator(credentials);
  authenticator.answer(sasl);
  assert.throws(() => authenticator.answer({ kind: 'cleartext-password' }), {
    sqlstate: '08P01',
    detail: 'The request is "cleartext-password", the exchange is in state "begun".',
  });
});

test('the steps of SCRAM out of their order are refused', () => {
  const data = Buffer.from('v=AAAA');
  for (const kind of ['sasl-continue', 'sasl-final'] as const) {
    const authenticator = createAuthenticator(credentials);
    assert.throws(() => authenticator.answer({ kind, data }), { sqlstate: '08P01' });
  }
  const begun = createAuthenticator(credentials);
  begun.answer(sasl);
  assert.throws(() => begun.answer({ kind: 'sasl-final', data }), { sqlstate: '08P01' });
  assert.throws(() => begun.answer(sasl), { sqlstate: '08P01' });
});

test('without a password, a request for one is refused with where to put it', () => {
  const requests: AuthenticationRequest[] = [
    { kind: 'cleartext-password' },
    { kind: 'md5-password', salt },
    sasl,
  ];
  for (const password of [undefined, '']) {
    for (const request of requests) {
      const authenticator = createAuthenticator({ user: 'repl', password });
      assert.throws(() => authenticator.answer(request), {
        sqlstate: '28P01',
        message: 'no password supplied',
        detail: 'The upstream requires a password for user "repl".',
        hint: 'Set password or passfile in primary_conninfo, or add a line to ~/.pgpass.',
      });
    }
  }
});

test('methods that are not supported are refused by name', () => {
  const methods: [number, string][] = [
    [2, 'Kerberos 5 authentication not supported'],
    [7, 'GSSAPI authentication not supported'],
    [9, 'SSPI authentication not supported'],
    [99, 'authentication method 99 not supported'],
  ];
  for (const [method, message] of methods) {
    const authenticator = createAuthenticator(credentials);
    const request = { kind: 'other', method } as const;
    assert.throws(() => authenticator.answer(request), { sqlstate: '0A000', message });
  }
  const authenticator = createAuthenticator(credentials);
  assert.throws(() => authenticator.answer({ kind: 'sasl', mechanisms: ['OAUTHBEARER'] }), {
    sqlstate: '0A000',
    message: "none of the server's SASL authentication mechanisms are supported",
    detail: 'The server offers OAUTHBEARER.',
  });
});
