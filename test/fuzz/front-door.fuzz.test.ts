/**
 * Anything at all said to a node's front door: random bytes, and conversations that are valid but
 * for a few bytes. The node never throws outside a session, ends what it refuses, leaks no session,
 * and a well-behaved client is served before, meanwhile and afterwards.
 *
 * Three seconds of each kind; WALCADE_FUZZ_SECONDS makes it longer, WALCADE_FUZZ_SEED repeats one.
 */
import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { after, test } from 'node:test';
import { SQLSTATE, WalcadeError } from '../../src/base/errors.ts';
import {
  encodeAuthentication,
  encodeBackendKeyData,
  encodeReadyForQuery,
} from '../../src/protocol/backend-messages.ts';
import { message } from '../../src/protocol/bytes.ts';
import { encodeCopyData, encodeQuery } from '../../src/protocol/frontend-messages.ts';
import {
  encodeHotStandbyFeedback,
  encodeStatusUpdate,
} from '../../src/protocol/replication-messages.ts';
import {
  encodeCancelRequest,
  encodeGssRequest,
  encodeSslRequest,
  encodeStartup,
} from '../../src/protocol/startup.ts';
import { advance, formatLsn, lsn } from '../../src/wal/lsn.ts';
import { duplexPair } from '../harness/duplex-pair.ts';
import { MemoryNode, type MemoryNodeOptions } from '../harness/memory-node.ts';
import { settle } from '../harness/manual-clock.ts';
import { type RandomNumber, seededRandom } from '../harness/wal-recutter.ts';
import { START, made } from '../harness/wal-walks.ts';

const SECONDS = Number(process.env['WALCADE_FUZZ_SECONDS'] ?? 3);
const SEED = Number(process.env['WALCADE_FUZZ_SEED'] ?? Date.now() % 1_000_000);

const { wal: WAL } = made([{ bodyBytes: 500 }, { bodyBytes: 200_000 }, { bodyBytes: 40 }]);
const END = advance(START, WAL.length);
const STARTUP = encodeStartup({ user: 'postgres', replication: 'true', application_name: 'fuzz' });

const KEY = Buffer.from('key!');
const GREETING = Buffer.concat([
  encodeAuthentication({ kind: 'ok' }),
  encodeBackendKeyData(4711, KEY),
  encodeReadyForQuery(),
]);

const stray: unknown[] = [];
const onStray = (error: unknown): void => void stray.push(error);
process.on('uncaughtException', onStray).on('unhandledRejection', onStray);
after(() => process.off('uncaughtException', onStray).off('unhandledRejection', onStray));

test('random bytes, first or after the startup, are refused and nothing else', async (t) => {
  await fuzz(t, (random) => {
    const bytes = randomBytes(random, Math.floor(random() * 300));
    const kind = random();
    if (kind < 0.3) return [bytes];
    if (kind < 0.6) return [packet(bytes)];
    const type = Buffer.from([Math.floor(random() * 256)]);
    const body = message('Q', bytes).subarray(1);
    return [STARTUP, Buffer.concat([type, body]), bytes];
  });
});

test('a valid conversation with some bytes changed is answered or refused', async (t) => {
  await fuzz(t, (random) => {
    const conversation = Buffer.concat(validConversation(random));
    for (let changes = Math.floor(random() * 4); changes > 0; changes--) {
      const at = Math.floor(random() * conversation.length);
      conversation[at] = Math.floor(random() * 256);
    }
    return cutRandomly(random, conversation);
  });
});

test('valid messages in any order are answered or refused', async (t) => {
  await fuzz(t, (random) => {
    const messages = [...validConversation(random), ...validConversation(random)];
    return [STARTUP, ...messages.slice(2).sort(() => random() - 0.5)];
  });
});

test('SQL sessions with a server that says anything end, and cost nobody else', async (t) => {
  const random = seededRandom(SEED + 1);
  const say = (far: Duplex): void => {
    const bytes = Buffer.from(GREETING);
    if (random() < 0.5) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    for (const part of cutRandomly(random, bytes)) far.write(part);
    if (random() < 0.3) far.end(randomBytes(random, 1000));
    if (random() < 0.3) far.destroy();
  };
  const connect = async (): Promise<Duplex> => {
    if (random() < 0.1) throw new WalcadeError(SQLSTATE.UNABLE_TO_CONNECT, 'it does not run');
    const [near, far] = duplexPair();
    far.on('error', () => {}).on('data', () => say(far));
    return near;
  };
  const speak = (): Buffer[] => {
    const startup = encodeStartup({ user: 'u', replication: random() < 0.5 ? 'off' : 'database' });
    const cancel = encodeCancelRequest(4711, random() < 0.5 ? KEY : Buffer.alloc(4));
    const first = random() < 0.3 ? cancel : startup;
    return [first, randomBytes(random, 100), randomBytes(random, Math.floor(random() * 5000))];
  };
  await fuzz(t, speak, { server: { connect } });
});

/** Has `speak` say something on a new connection, again and again until the time is over. */
async function fuzz(
  t: { diagnostic(text: string): void },
  speak: (random: RandomNumber) => Buffer[],
  options: MemoryNodeOptions = {},
): Promise<void> {
  t.diagnostic(`seed ${SEED}`);
  const random = seededRandom(SEED);
  const node = await MemoryNode.open(WAL, options);
  const endMs = performance.now() + SECONDS * 1000;
  let rounds = 0;
  while (performance.now() < endMs) {
    const sockets = Array.from({ length: 20 }, () => {
      const socket = node.connect();
      if (random() < 0.9) socket.resume();
      for (const bytes of speak(random)) socket.write(bytes);
      if (random() < 0.5) socket.end();
      return socket;
    });
    await settle();
    if (rounds % 10 === 0) await assertServes(node);
    for (const socket of sockets) socket.destroy();
    await settle();
    rounds += 1;
    assert.deepEqual(stray, [], `seed ${SEED}, round ${rounds}`);
    await forget(node);
  }
  t.diagnostic(`${rounds * 20} connections`);
  assert.ok(rounds > 0);

  // No session outlives its connection, and nothing was an internal error.
  for (let turn = 0; turn < 10 && node.context.downstreams.size > 0; turn++)
    await node.clock.pass(10_000);
  assert.equal(node.context.downstreams.size, 0);
  const grave = node.log.filter(({ level }) => level === 'error' || level === 'panic');
  assert.deepEqual(grave, []);
  await assertServes(node);
  await node.close();
  assert.deepEqual(stray, [], `seed ${SEED}`);
}

/** A client that behaves gets all the WAL there is. */
async function assertServes(node: MemoryNode): Promise<void> {
  const socket = node.connect();
  let bytes = 0;
  socket.on('data', (chunk: Buffer) => (bytes += chunk.length));
  socket.write(STARTUP);
  socket.write(encodeQuery(`START_REPLICATION ${formatLsn(START)}`));
  for (let turn = 0; turn < 50 && bytes < WAL.length; turn++) await settle();
  assert.ok(bytes > WAL.length, `seed ${SEED}: ${bytes} of ${WAL.length} bytes were served`);
  socket.destroy();
  await settle();
}

/** Slots that a valid command made are dropped again, so that there is always a free one. */
async function forget(node: MemoryNode): Promise<void> {
  const { slots } = node.context;
  for (const { name, temporary, activePid } of slots.all()) {
    if (!temporary && activePid === undefined) await slots.drop(name, 0);
  }
}

function validConversation(random: RandomNumber): Buffer[] {
  const start = formatLsn(advance(START, Math.floor(random() * WAL.length)));
  const commands = [
    'IDENTIFY_SYSTEM',
    'SHOW wal_segment_size',
    'SHOW ALL',
    'TIMELINE_HISTORY 2',
    'CREATE_REPLICATION_SLOT "s1" TEMPORARY PHYSICAL (RESERVE_WAL)',
    'CREATE_REPLICATION_SLOT s2 PHYSICAL RESERVE_WAL',
    'READ_REPLICATION_SLOT s1',
    'DROP_REPLICATION_SLOT s2 WAIT',
    `START_REPLICATION SLOT "s2" PHYSICAL ${start} TIMELINE 1`,
    `START_REPLICATION ${start}`,
    "BASE_BACKUP (LABEL 'x', PROGRESS, CHECKPOINT 'fast', MANIFEST 'yes')",
    'UPLOAD_MANIFEST',
  ];
  const position = lsn(END - BigInt(Math.floor(random() * 1000)));
  const positions = { write: position, flush: position, apply: position };
  const copy = [
    encodeStatusUpdate({ ...positions, sentAt: 1n, replyRequested: random() < 0.5 }),
    encodeHotStandbyFeedback({ sentAt: 1n, xmin: 700n, catalogXmin: 0n }),
    encodeCopyData(Buffer.from('r')),
    message('c'),
    message('f', Buffer.from('why\0')),
    message('S'),
    message('X'),
  ];
  const some = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T;
  const first = random() < 0.3 ? some([encodeSslRequest(), encodeGssRequest()]) : Buffer.alloc(0);
  const last = random() < 0.1 ? encodeCancelRequest(5_000_000, Buffer.alloc(4)) : some(copy);
  return [
    first,
    STARTUP,
    encodeQuery(some(commands)),
    encodeQuery(some(commands)),
    some(copy),
    some(copy),
    last,
  ];
}

function randomBytes(random: RandomNumber, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => Math.floor(random() * 256)));
}

/** `bytes` as the body of a first packet. */
function packet(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length + 4);
  return Buffer.concat([length, bytes]);
}

function cutRandomly(random: RandomNumber, bytes: Buffer): Buffer[] {
  const at = Math.floor(random() * bytes.length);
  return [bytes.subarray(0, at), bytes.subarray(at)];
}
