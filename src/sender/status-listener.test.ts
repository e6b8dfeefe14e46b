/** What a WAL sender does on what its downstream says, and on its silence. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodeCopyData } from '../protocol/frontend-messages.ts';
import { Connection } from '../protocol/connection.ts';
import { message } from '../protocol/bytes.ts';
import {
  decodeKeepalive,
  encodeHotStandbyFeedback,
  encodeStatusUpdate,
} from '../protocol/replication-messages.ts';
import type { ReplicationSlot } from '../store/replication-slots.ts';
import { INVALID_LSN, lsn } from '../wal/lsn.ts';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { ManualClock, settle } from '../../test/harness/manual-clock.ts';
import type { Downstream } from './downstreams.ts';
import { ReplicationTimeout, StatusListener } from './status-listener.ts';

const STATUS = { write: lsn(30n), flush: lsn(20n), apply: lsn(10n), sentAt: 7n };
const SIGNAL = new AbortController().signal;

test('a status update moves the positions, backwards too, and the slot by its flush', async () => {
  const { say, downstream, news } = listen();
  await say(encodeStatusUpdate({ ...STATUS, replyRequested: false }));
  assert.deepEqual(
    [downstream.write, downstream.flush, downstream.replay, downstream.replyTimeUs],
    [30n, 20n, 10n, 7n],
  );
  const slot: ReplicationSlot = {
    name: 'kept',
    temporary: false,
    restartLsn: undefined,
    xmin: 0n,
    catalogXmin: 0n,
    activePid: 1,
  };
  downstream.slot = slot;
  await say(encodeStatusUpdate({ ...STATUS, write: lsn(5n), replyRequested: false }));
  assert.equal(downstream.write, 5n);
  assert.equal(slot.restartLsn, 20n);
  await say(encodeStatusUpdate({ ...STATUS, flush: INVALID_LSN, replyRequested: false }));
  assert.equal(slot.restartLsn, 20n);
  assert.deepEqual(news, { status: 3, feedback: 0 });
});

test('a reply that is asked for comes at once and asks for none', async () => {
  const { say, heard, downstream } = listen();
  downstream.sent = lsn(99n);
  await say(encodeStatusUpdate({ ...STATUS, replyRequested: true }));
  assert.equal(heard.length, 1);
  const { walEnd, replyRequested } = decodeKeepalive(heard[0]?.subarray(5) ?? assert.fail());
  assert.deepEqual([walEnd, replyRequested], [99n, false]);
});

test('replies that nobody takes are one in flight and one more at most', async () => {
  // A downstream that asked without reading made the node hold every reply, until it ran out.
  const { say, connection, near } = listen();
  near.pause();
  let sends = 0;
  const send = connection.send.bind(connection);
  connection.send = (bytes) => {
    sends++;
    return send(bytes);
  };
  // The downstream's side is full: what is sent now is in flight until it reads.
  const filling = connection.send(Buffer.alloc(200_000));
  const asking = encodeStatusUpdate({ ...STATUS, replyRequested: true });
  for (let asked = 0; asked < 100; asked++) await say(asking);
  assert.equal(sends, 2);
  near.resume();
  await filling;
  await settle();
  assert.equal(sends, 3);
  await say(asking);
  assert.equal(sends, 4);
});

test('listening that is called off leaves what comes to who reads next', async () => {
  const { say, connection, ended, stop } = listen();
  stop.abort(new Error('the command has failed'));
  await assert.rejects(ended, /the command has failed/);
  await say(message('Q', Buffer.from('SHOW x\0')));
  assert.equal((await connection.next()).type, 'Q'.charCodeAt(0));
});

test('no keepalive follows the end of a copy', async () => {
  const { say, heard, endKeepalives } = listen();
  endKeepalives();
  await say(encodeStatusUpdate({ ...STATUS, replyRequested: true }));
  assert.equal(heard.length, 0);
});

test('feedback stays with the session, or with its slot', async () => {
  const { say, downstream, news } = listen();
  const feedback = encodeHotStandbyFeedback({ sentAt: 1n, xmin: 700n, catalogXmin: 600n });
  await say(feedback);
  assert.deepEqual([downstream.xmin, downstream.catalogXmin], [700n, 600n]);
  assert.equal(news.feedback, 1);
});

test('the copy ends by CopyDone, and for good by Terminate', async () => {
  const done = listen();
  await done.say(message('c'));
  assert.equal(await done.ended, 'copy-done');
  const terminated = listen();
  await terminated.say(message('X'));
  assert.equal(await terminated.ended, 'terminated');
  assert.equal(terminated.connection.closed.aborted, true);
});

test('what no receiver says ends the session', async () => {
  for (const [bytes, text] of [
    [message('Q', Buffer.from('SHOW x\0')), 'invalid standby message type "Q"'],
    [encodeCopyData(Buffer.from('x')), 'unexpected message type "x"'],
    [encodeCopyData(Buffer.alloc(0)), 'unexpected message type "\0"'],
    [encodeCopyData(Buffer.from('r')), 'insufficient data left in message'],
    [encodeCopyData(Buffer.alloc(100, 'r')), 'invalid message format'],
    [encodeCopyData(Buffer.alloc(24, 'h')), 'insufficient data left in message'],
  ] as const) {
    const { say, ended } = listen();
    const refused = assert.rejects(ended, { sqlstate: '08P01', message: text });
    await say(bytes);
    await refused;
  }
});

test('after half of the timeout a reply is asked for once, at the timeout it ends', async () => {
  const { clock, heard, supervise, connection, say } = listen(10_000);
  const supervised = assert.rejects(supervise(SIGNAL), ReplicationTimeout);
  await clock.pass(4_999);
  assert.equal(heard.length, 0);
  await clock.pass(1_000);
  assert.equal(decodeKeepalive(heard[0]?.subarray(5) ?? assert.fail()).replyRequested, true);
  await clock.pass(3_000);
  assert.equal(heard.length, 1);

  // Anything that is said begins the time anew.
  await say(encodeHotStandbyFeedback({ sentAt: 1n, xmin: 0n, catalogXmin: 0n }));
  await clock.pass(9_000);
  assert.equal(heard.length, 2);
  assert.equal(connection.closed.aborted, false);
  await clock.pass(2_000);
  await supervised;
  assert.equal(connection.closed.aborted, true);
});

test('a timeout of 0 never ends', async () => {
  const { clock, heard, supervise } = listen(0);
  const stop = new AbortController();
  const supervised = assert.rejects(supervise(stop.signal), /stopped/);
  await clock.pass(300_000);
  assert.equal(heard.length, 0);
  stop.abort(new Error('stopped'));
  await supervised;
});

function listen(timeoutMs = 60_000) {
  const [near, far] = duplexPair();
  const heard: Buffer[] = [];
  near.on('data', (chunk: Buffer) => heard.push(chunk));
  const connection = new Connection(far, {
    limits: { bodyBytesMax: () => 1000 },
    lostMessage: 'lost',
  });
  const downstream: Downstream = {
    pid: 1,
    user: 'u',
    applicationName: 'a',
    peer: { transport: 'local' },
    startedMs: 0,
    isAttached: false,
    compression: 'off',
    wireBytes: () => 0,
    walBytes: 0,
    state: 'streaming',
    timeline: undefined,
    slot: undefined,
    sent: INVALID_LSN,
    write: INVALID_LSN,
    flush: INVALID_LSN,
    replay: INVALID_LSN,
    replyTimeUs: undefined,
    xmin: 0n,
    catalogXmin: 0n,
  };
  const clock = new ManualClock();
  const news = { status: 0, feedback: 0 };
  const listener = new StatusListener({
    connection,
    downstream,
    clock,
    timeoutMs: () => timeoutMs,
    walEnd: () => downstream.sent,
    onStatus: () => news.status++,
    onFeedback: () => news.feedback++,
  });
  const stop = new AbortController();
  const ended = listener.listen(stop.signal);
  ended.catch(() => {});
  const say = async (bytes: Buffer): Promise<void> => {
    near.write(bytes);
    await settle();
  };
  const supervise = (signal: AbortSignal): Promise<void> => listener.supervise(signal);
  const endKeepalives = (): void => listener.endKeepalives();
  const stream = { near, connection, clock, stop };
  return { say, heard, downstream, news, ended, supervise, endKeepalives, ...stream };
}
