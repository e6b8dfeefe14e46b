/** The client side of a replication connection, against an upstream that the test plays. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../test/harness/manual-clock.ts';
import { MemoryUpstream, WELCOME } from '../../test/harness/memory-upstream.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  encodeAuthentication,
  encodeCommandComplete,
  encodeCopyBothResponse,
  encodeDataRow,
  encodeNegotiateProtocolVersion,
  encodeParameterStatus,
  encodeReadyForQuery,
  encodeRowDescription,
} from './backend-messages.ts';
import { message } from './bytes.ts';
import { singleValue } from './client.ts';
import { encodeErrorResponse, encodeNoticeResponse } from './error-response.ts';
import { encodePassword, encodeQuery, encodeTerminate } from './frontend-messages.ts';
import { encodeStartup } from './startup.ts';

const REFUSAL = new WalcadeError(SQLSTATE.UNDEFINED_OBJECT, 'there is no such thing');
const ROW = [encodeRowDescription([{ name: 'a', typeOid: 25 }]), encodeDataRow(['one'])];

test('a connection says who it is, answers for itself, and is let in', async () => {
  const upstream = new MemoryUpstream();
  const connecting = upstream.begin({ parameters: { replication: 'true', database: 'x' } });
  await settle();
  const startup = { user: 'postgres', replication: 'true', database: 'x' };
  assert.deepEqual(upstream.heard(), encodeStartup(startup));
  await upstream.say(encodeAuthentication({ kind: 'cleartext-password' }));
  assert.deepEqual(upstream.heard(), encodePassword('secret'));
  await upstream.say(...WELCOME);
  const client = await connecting;
  assert.equal(client.parameters.get('server_version'), '18.4');
  assert.equal(client.key?.processId, 7);
  await client.close();
  assert.deepEqual(upstream.heard(), encodeTerminate());
});

test('a command gives its results, whatever else comes between', async () => {
  const upstream = new MemoryUpstream();
  const notices: string[] = [];
  const client = await upstream.connect({ onNotice: (notice) => notices.push(notice.message) });
  const asking = client.query('SHOW a');
  await settle();
  assert.deepEqual(upstream.heard(), encodeQuery('SHOW a'));
  const stream = Buffer.concat([
    encodeNoticeResponse(new WalcadeError('00000', 'by the way'), 'NOTICE'),
    ...ROW,
    encodeParameterStatus('in_hot_standby', 'on'),
    encodeCommandComplete('SHOW'),
    encodeCommandComplete('AGAIN'),
    encodeReadyForQuery(),
  ]);
  for (const byte of stream) await upstream.say(Buffer.from([byte]));
  const results = await asking;
  assert.deepEqual(
    results.map(({ columns, tag }) => [columns, tag]),
    [
      [['a'], 'SHOW'],
      [[], 'AGAIN'],
    ],
  );
  assert.equal(singleValue(results, 0), 'one');
  assert.throws(() => singleValue(results, 1), { sqlstate: '08P01' });
  assert.throws(() => singleValue([], 0), { sqlstate: '08P01' });
  assert.deepEqual(notices, ['by the way']);
  assert.equal(client.parameters.get('in_hot_standby'), 'on');
});

test('an error ends the command and not the session; a fatal one ends both', async () => {
  const upstream = new MemoryUpstream();
  const client = await upstream.connect();
  const refused = assert.rejects(client.query('SHOW a'), {
    sqlstate: '42704',
    message: 'there is no such thing',
  });
  await upstream.say(...ROW, encodeErrorResponse(REFUSAL, 'ERROR'), encodeReadyForQuery());
  await refused;
  const answered = client.query('SHOW b');
  await upstream.say(...ROW, encodeCommandComplete('SHOW'), encodeReadyForQuery());
  assert.equal(singleValue(await answered, 0), 'one');
  const fatal = assert.rejects(client.query('SHOW c'), { sqlstate: '42704' });
  await upstream.say(encodeErrorResponse(REFUSAL, 'FATAL'));
  await fatal;
});

test('a stream is entered, or answered by results', async () => {
  const upstream = new MemoryUpstream();
  const client = await upstream.connect();
  const starting = client.startCopyBoth('START_REPLICATION 0/0');
  await upstream.say(encodeCopyBothResponse());
  assert.deepEqual(await starting, { kind: 'streaming' });
  const historic = client.startCopyBoth('START_REPLICATION 0/0');
  await upstream.say(...ROW, encodeCommandComplete('START_STREAMING'), encodeReadyForQuery());
  assert.equal((await historic).kind, 'results');
});

test('a server that says what none says, or hangs up, is left', async () => {
  for (const [bytes, text] of [
    [message('H', Buffer.alloc(3)), 'unexpected message type 0x48 from server'],
    [encodeNegotiateProtocolVersion(0x0003_0002, []), 'server offers protocol version 3.2, '],
    [encodeReadyForQuery(), 'unexpected message type 0x5a from server'],
    [Buffer.from('HTTP/1.1 400'), 'invalid message length'],
    [Buffer.from('D\xff\xff\xff\xff', 'latin1'), 'invalid message length'],
  ] as const) {
    const upstream = new MemoryUpstream();
    const refused = assert.rejects(upstream.begin(), (error: WalcadeError) => {
      assert.equal(error.sqlstate, '08P01');
      assert.ok(error.message.includes(text), error.message);
      return true;
    });
    await settle();
    await upstream.say(bytes);
    await refused;
  }
  const upstream = new MemoryUpstream();
  const lost = assert.rejects(upstream.begin(), { sqlstate: '08006' });
  await settle();
  upstream.hangUp();
  await lost;
});

test('the first address that lets us in is taken; if none does, each refusal is told', async () => {
  const addresses = ['one', 'two', 'three'].map((host) => ({ host, port: 5432 }));
  const upstream = new MemoryUpstream();
  upstream.deadHosts.add('one');
  const client = await upstream.connect({ addresses });
  assert.equal(client.address.host, 'two');
  assert.deepEqual(upstream.hosts, ['one', 'two']);
  for (const { host } of addresses) upstream.deadHosts.add(host);
  await assert.rejects(upstream.begin({ addresses }), (error: WalcadeError) => {
    assert.match(error.message, /server three/);
    assert.match(error.detail ?? '', /server one\.\n.*server two\./);
    return true;
  });
});

test('a role that is asked for is asked for of each address', async () => {
  const addresses = ['one', 'two'].map((host) => ({ host, port: 5432 }));
  const upstream = new MemoryUpstream();
  const connecting = upstream.begin({ addresses, sessionAttributes: 'standby' });
  await settle();
  await upstream.say(...WELCOME);
  await upstream.say(
    ...WELCOME.slice(0, -1),
    encodeParameterStatus('in_hot_standby', 'on'),
    encodeReadyForQuery(),
  );
  assert.equal((await connecting).address.host, 'two');
});

test('a server that accepts and says nothing is given up after connect_timeout', async () => {
  const upstream = new MemoryUpstream();
  const expired = assert.rejects(upstream.begin(), {
    sqlstate: '08001',
    message: /failed: timeout expired$/,
  });
  await upstream.clock.pass(10_000);
  await expired;
});

test('who stops waiting gets the reason, at any point of the start', async () => {
  for (let said = 0; said < WELCOME.length; said++) {
    const upstream = new MemoryUpstream();
    const stop = new AbortController();
    const reason = new Error('never mind');
    const refused = assert.rejects(upstream.begin({ signal: stop.signal }), reason);
    await settle();
    await upstream.say(...WELCOME.slice(0, said));
    stop.abort(reason);
    await refused;
  }
});

test('who has stopped waiting before the start connects to nobody', async () => {
  const upstream = new MemoryUpstream();
  const reason = new Error('never mind');
  await assert.rejects(upstream.begin({ signal: AbortSignal.abort(reason) }), reason);
  assert.deepEqual(upstream.hosts, []);
});
