/** The way through for SQL, on streams in memory: all bytes, in order, and every way to end. */
import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import {
  type BackendKeyData,
  encodeAuthentication,
  encodeBackendKeyData,
  encodeReadyForQuery,
} from '../protocol/backend-messages.ts';
import { passSql } from './sql-passage.ts';

const OPENING = Buffer.from('startup');
const GREETING = Buffer.concat([
  encodeAuthentication({ kind: 'ok' }),
  encodeBackendKeyData(4711, Buffer.from('key!')),
  encodeReadyForQuery(),
]);

test('the opening and then all bytes are passed on in both directions, in order', async () => {
  const passage = begin();
  passage.server.stream.write(GREETING);
  await settle();
  const sent = { client: [] as Buffer[], server: [] as Buffer[] };
  for (let round = 0; round < 200; round++) {
    for (const side of ['client', 'server'] as const) {
      const bytes = Buffer.alloc(1 + ((round * 7919) % 70_000), round);
      sent[side].push(bytes);
      passage[side].stream.write(bytes);
    }
    await settle();
  }
  assert.deepEqual(passage.server.heard(), Buffer.concat([OPENING, ...sent.client]));
  assert.deepEqual(passage.client.heard(), Buffer.concat([GREETING, ...sent.server]));
  assert.deepEqual(passage.keys, [{ processId: 4711, key: Buffer.from('key!') }]);
});

test('the key is known before the client can have it, wherever the greeting is cut', async () => {
  for (let cut = 1; cut < GREETING.length; cut++) {
    const passage = begin();
    passage.client.stream.once('data', () => assert.equal(passage.keys.length, cut < 22 ? 0 : 1));
    passage.server.stream.write(GREETING.subarray(0, cut));
    await settle();
    passage.server.stream.write(GREETING.subarray(cut));
    await settle();
    assert.deepEqual(passage.keys, [{ processId: 4711, key: Buffer.from('key!') }]);
    assert.deepEqual(passage.client.heard(), GREETING);
  }
});

test('a client that does not read holds the server back, and what waits is bounded', async () => {
  const passage = begin({ clientReads: false });
  const chunk = Buffer.alloc(16 * 1024, 'x');
  let sentBytes = 0;
  while (passage.server.stream.write(chunk) && sentBytes < 10_000_000) {
    sentBytes += chunk.length;
    await settle();
  }
  assert.ok(sentBytes < 300_000, `${sentBytes} bytes were taken`);
  assert.ok(passage.near.client.writableLength <= 128 * 1024);

  // When it reads on, so does the server's side.
  passage.client.stream.resume();
  await settle();
  while (sentBytes < 1_000_000) {
    passage.server.stream.write(chunk);
    sentBytes += chunk.length;
    await settle();
  }
  assert.equal(passage.client.heard().length, sentBytes + chunk.length);
});

test('a server that does not read holds the client back', async () => {
  const passage = begin({ serverReads: false });
  const chunk = Buffer.alloc(16 * 1024, 'x');
  let sentBytes = 0;
  while (passage.client.stream.write(chunk) && sentBytes < 10_000_000) {
    sentBytes += chunk.length;
    await settle();
  }
  assert.ok(sentBytes < 300_000, `${sentBytes} bytes were taken`);
});

test('what is read into the same memory again has been taken before', async () => {
  const passage = begin();
  passage.server.stream.write(GREETING);
  await settle();
  // As a connection that reads into one buffer emits it, and waits while it is paused.
  const memory = Buffer.alloc(1000);
  for (let round = 0; round < 50; round++) {
    while (passage.near.server.isPaused()) await settle();
    passage.near.server.emit('data', memory.fill(round));
  }
  await settle();
  const heard = passage.client.heard().subarray(GREETING.length);
  const expected = Array.from({ length: 50 }, (_, round) => Buffer.alloc(1000, round));
  assert.deepEqual(heard, Buffer.concat(expected));
});

test('a client that has said its last still hears the server', async () => {
  const passage = begin();
  passage.server.stream.write(GREETING);
  passage.client.stream.end('last query');
  await settle();
  assert.equal(passage.server.hasEnded(), true);
  assert.equal(passage.isOver(), false);
  passage.server.stream.end('answer');
  await settle();
  assert.ok(passage.client.heard().toString('latin1').endsWith('answer'));
  assert.equal(passage.client.hasEnded(), true);
  assert.equal(passage.isOver(), true);
});

test("the server's last words are delivered to a client that reads late", async () => {
  const passage = begin({ clientReads: false });
  const words = Buffer.alloc(60_000, 'w');
  passage.server.stream.end(words);
  await settle();
  assert.equal(passage.client.hasEnded(), false);
  passage.client.stream.resume();
  await settle();
  assert.deepEqual(passage.client.heard(), words);
  assert.equal(passage.isOver(), true);
});

// Clients that were busy when their server was stopped saw a lost connection and no reason.
test("the server's last words are delivered though a query for it cannot be written", async () => {
  const passage = begin({
    prepare: ({ server }) => {
      const gone = Object.assign(new Error('write EPIPE'), { code: 'EPIPE' });
      server._write = (_chunk, _encoding, done) => setImmediate(done, gone);
    },
  });
  passage.client.stream.write('query');
  await settle();
  assert.equal(passage.isOver(), false);
  passage.client.stream.write('another query');
  passage.server.stream.end('terminating connection');
  await settle();
  assert.equal(passage.client.heard().toString(), 'terminating connection');
  assert.equal(passage.isOver(), true);
});

const stages: [stage: string, prepare: (passage: Passage) => Promise<void>][] = [
  ['before the server has said anything', async () => {}],
  ['within the greeting', (passage) => say(passage.server, GREETING.subarray(0, 12))],
  ['after the greeting', (passage) => say(passage.server, GREETING)],
  [
    'while both have something under way',
    async (passage) => {
      await say(passage.server, Buffer.concat([GREETING, Buffer.alloc(200_000)]));
      await say(passage.client, Buffer.alloc(200_000));
    },
  ],
];

for (const [stage, prepare] of stages) {
  for (const side of ['client', 'server'] as const) {
    for (const reads of [true, false]) {
      const how = reads ? '' : ', though nobody reads';
      test(`the ${side} breaking off ${stage} ends the other${how}`, async () => {
        const passage = begin({ clientReads: reads, serverReads: reads });
        await prepare(passage);
        passage.near[side].destroy(new Error('connection reset'));
        await settle();
        if (side === 'server' && !reads) passage.client.stream.resume();
        await settle();
        assert.equal(passage.isOver(), true);
        assert.equal(passage.near.client.destroyed && passage.near.server.destroyed, true);
      });
    }
  }
}

test('an end that is closed already when the passage begins closes the other', async () => {
  for (const side of ['client', 'server'] as const) {
    const passage = begin({ prepare: (near) => void near[side].destroy() });
    await settle();
    assert.equal(passage.isOver(), true);
    assert.equal(passage.near.client.destroyed && passage.near.server.destroyed, true);
  }
});

interface Side {
  stream: Duplex;
  heard(): Buffer;
  hasEnded(): boolean;
}

interface Passage {
  client: Side;
  server: Side;
  near: { client: Duplex; server: Duplex };
  keys: (BackendKeyData | undefined)[];
  isOver(): boolean;
}

/** A passage between two streams, of which the test holds the far ends. */
function begin({
  clientReads = true,
  serverReads = true,
  prepare = () => {},
}: {
  clientReads?: boolean;
  serverReads?: boolean;
  prepare?: (near: { client: Duplex; server: Duplex }) => void;
} = {}): Passage {
  const [farClient, client] = duplexPair();
  const [farServer, server] = duplexPair();
  const keys: (BackendKeyData | undefined)[] = [];
  let isOver = false;
  prepare({ client, server });
  const onGreeted = (key: BackendKeyData | undefined): void => void keys.push(key);
  // Nobody here has more to say: what is left is given, and that is the end.
  const onServerGone = (): void => void client.end(() => client.destroy());
  const passage = { client, server, opening: OPENING, onGreeted, onServerGone };
  void passSql(passage).then(() => (isOver = true));
  return {
    client: listen(farClient, clientReads),
    server: listen(farServer, serverReads),
    near: { client, server },
    keys,
    isOver: () => isOver,
  };
}

function listen(stream: Duplex, reads: boolean): Side {
  const chunks: Buffer[] = [];
  let hasEnded = false;
  if (!reads) stream.pause();
  stream.on('data', (chunk: Buffer) => chunks.push(Buffer.from(chunk)));
  stream.on('end', () => (hasEnded = true));
  stream.on('error', () => {});
  return { stream, heard: () => Buffer.concat(chunks), hasEnded: () => hasEnded };
}

async function say(side: Side, bytes: Buffer): Promise<void> {
  side.stream.write(bytes);
  await settle();
}
