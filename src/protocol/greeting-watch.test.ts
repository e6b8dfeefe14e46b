/** A server's greeting is looked at until its key, however the bytes are cut. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  encodeAuthentication,
  encodeBackendKeyData,
  encodeParameterStatus,
  encodeReadyForQuery,
} from './backend-messages.ts';
import { encodeErrorResponse, encodeNoticeResponse } from './error-response.ts';
import { type Greeting, GreetingWatch } from './greeting-watch.ts';

const KEY = Buffer.from('a key of protocol 3.2, 32 bytes.');
const WARNING = new WalcadeError(SQLSTATE.FEATURE_NOT_SUPPORTED, 'no matter');
const BEFORE = Buffer.concat([
  encodeAuthentication({ kind: 'ok' }),
  encodeParameterStatus('server_version', '18.4'),
  encodeNoticeResponse(WARNING, 'WARNING'),
]);
const GREETING = Buffer.concat([BEFORE, encodeBackendKeyData(4711, KEY), encodeReadyForQuery()]);
const FOUND: Greeting = { kind: 'over', key: { processId: 4711, key: KEY } };
const NONE: Greeting = { kind: 'over', key: undefined };

test('the key is found wherever the stream is cut, and does not share the memory read', () => {
  for (let cut = 0; cut <= GREETING.length; cut++) {
    const watch = new GreetingWatch();
    // The same memory is read into again, as that of a connection is.
    const memory = Buffer.alloc(GREETING.length);
    const read = (bytes: Buffer): Buffer => memory.subarray(0, bytes.copy(memory));
    const keyEnd = GREETING.length - encodeReadyForQuery().length;
    const first = watch.push(read(GREETING.subarray(0, cut)));
    assert.equal(first.kind, cut < keyEnd ? 'greeting' : 'over');
    const found = cut < keyEnd ? watch.push(read(GREETING.subarray(cut))) : first;
    memory.fill(0);
    assert.deepEqual(found, FOUND);
  }
  const watch = new GreetingWatch();
  let found: Greeting = { kind: 'greeting' };
  for (let at = 0; found.kind === 'greeting'; at++)
    found = watch.push(GREETING.subarray(at, at + 1));
  assert.deepEqual(found, FOUND);
});

test('an error or readiness in the place of the key ends the watch without one', () => {
  for (const end of [encodeErrorResponse(WARNING, 'FATAL'), encodeReadyForQuery()]) {
    assert.deepEqual(new GreetingWatch().push(Buffer.concat([BEFORE, end, GREETING])), NONE);
  }
});

test('what is no message ends the watch, and takes back no key that came before', () => {
  const garbage = Buffer.from('HTTP/1.1 400 Bad Request');
  assert.deepEqual(new GreetingWatch().push(garbage), NONE);
  assert.deepEqual(new GreetingWatch().push(Buffer.concat([GREETING, garbage])), FOUND);
  // A key of less than four bytes is none.
  assert.deepEqual(new GreetingWatch().push(encodeBackendKeyData(1, Buffer.alloc(3))), NONE);
});
