/** Older WAL from the upstream: proven on the way, cut at records, bounded, refused in words. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../test/harness/manual-clock.ts';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { CLUSTER, MB, START, made } from '../../test/harness/wal-walks.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { encodeCopyBothResponse, encodeReadyForQuery } from '../protocol/backend-messages.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { encodeQuery } from '../protocol/frontend-messages.ts';
import {
  decodeStatusUpdate,
  encodeKeepalive,
  encodeWalDataFrame,
} from '../protocol/replication-messages.ts';
import { type Lsn, advance, distance, lsn, timelineId } from '../wal/lsn.ts';
import { WalCorruption } from '../wal/corruption.ts';
import { segmentStart } from '../wal/segment.ts';
import { UpstreamWal } from './upstream-wal.ts';

const RECORDS = Array.from({ length: 9 }, () => ({ bodyBytes: 700_000 }));
const { wal: WAL, records } = made(RECORDS);
const END = advance(START, WAL.length);
const LAST = records.at(-1) ?? assert.fail();

test('a range of older WAL begins at its segment and is served to its end', async () => {
  const { upstream, older, running } = await openOlder({
    start: advance(START, 5_000),
    until: END,
  });
  assert.deepEqual(upstream.heard(), encodeQuery('START_REPLICATION PHYSICAL 0/100000 TIMELINE 1'));
  await sendWal(upstream, 0, 400_000);

  // An unfinished record is not served: nothing may end inside it.
  assert.equal(older.served.value, advance(START, 5_000));
  await sendWal(upstream, 400_000, 900_000);
  assert.equal(older.served.value, records[0]?.end);
  const head = readUpTo(older, advance(START, 5_000), older.served.value);
  assert.deepEqual(head, WAL.subarray(5_000, distance(START, older.served.value)));

  // It is asked for no further than it is read, then given to the end.
  let from = older.served.value;
  for (let at = 900_000; at < WAL.length; at += 100_000) {
    await sendWal(upstream, at, Math.min(WAL.length, at + 100_000));
    const to = older.served.value;
    if (to === from) continue;
    const bytes = readUpTo(older, from, to);
    assert.deepEqual(bytes, WAL.subarray(distance(START, from), distance(START, to)));
    from = to;
  }
  await running;
  assert.equal(older.served.value, END);
});

test('serving ends where it was to end, though the record there goes on', async () => {
  const until = advance(LAST.start, 8_192);
  const { upstream, older, running } = await openOlder({ start: LAST.start, until });
  await sendWal(upstream, distance(START, segmentStart(LAST.start, MB)), WAL.length);
  await running;
  assert.equal(older.served.value, until);
});

test('a start far into its segment is reached, and nothing before it is held', async () => {
  // A relay that followed another one asks so: from where its store ends, not from a segment.
  const begin = lsn(0x1000000n);
  const built = made(RECORDS, { segmentBytes: 16 * MB, start: begin });
  const start = built.records[7]?.start ?? assert.fail();
  const until = advance(begin, built.wal.length);
  const { upstream, older, running } = await openOlder({ start, until, segmentBytes: 16 * MB });
  for (let at = 0; at < built.wal.length; at += 131_072) {
    await upstream.say(...frame(advance(begin, at), built.wal.subarray(at, at + 131_072)));
  }
  await running;
  assert.equal(older.served.value, until);
  assert.deepEqual(readUpTo(older, start, until), built.wal.subarray(distance(begin, start)));
});

test('a reader that is slow stops the upstream, not memory', async () => {
  const { upstream, older } = await openOlder({ start: START, until: END });
  await sendWal(upstream, 0, WAL.length);
  for (let turn = 0; turn < 20; turn++) await settle();
  const ahead = older.served.value;
  assert.ok(ahead > advance(START, 4 * MB) && ahead < advance(START, 6 * MB), `${ahead}`);
  for (let from = START; from < END; ) {
    const to = older.served.value;
    if (to > from) readUpTo(older, from, to);
    from = to;
    await settle();
  }
});

test('keepalives are answered, claiming nothing as flushed', async () => {
  const { upstream } = await openOlder({ start: START, until: END });
  upstream.heard();
  await sendWal(upstream, 0, 1_000);
  await upstream.say(encodeKeepalive({ walEnd: END, sentAt: 1n, replyRequested: false }));
  assert.equal(upstream.heard().length, 0);
  await upstream.say(encodeKeepalive({ walEnd: END, sentAt: 1n, replyRequested: true }));
  const { write, flush, apply } = decodeStatusUpdate(upstream.heard().subarray(5));
  assert.deepEqual([write, flush, apply], [advance(START, 1_000), 0n, 0n]);
});

test('what the upstream refuses is what the downstream is told', async () => {
  const gone = 'requested WAL segment 000000010000000000000001 has already been removed';
  const { upstream, running } = await openOlder({ start: START, until: END });
  const refused = assert.rejects(running, { sqlstate: '58P01', message: gone });
  const refusal = new WalcadeError(SQLSTATE.UNDEFINED_FILE, gone);
  await upstream.say(encodeErrorResponse(refusal, 'ERROR'), encodeReadyForQuery());
  await refused;
});

test('WAL that does not prove true is never served', async () => {
  const { upstream, older, running } = await openOlder({ start: START, until: END });
  const refused = assert.rejects(running, WalCorruption);
  const broken = Buffer.from(WAL.subarray(0, 900_000));
  broken[300_000] = (broken[300_000] ?? 0) ^ 1;
  await upstream.say(...frame(START, broken));
  await refused;
  assert.equal(older.served.value, START);
});

test('a silent upstream is asked at half of the timeout and left at all of it', async () => {
  const { upstream, supervised } = await openOlder({ start: START, until: END });
  const ended = assert.rejects(supervised, { sqlstate: '08006', message: /due to timeout$/ });
  upstream.heard();
  await upstream.clock.pass(4_999);
  assert.equal(upstream.heard().length, 0);
  await upstream.clock.pass(1);
  assert.equal(decodeStatusUpdate(upstream.heard().subarray(5)).replyRequested, true);

  // Anything that is said begins the time anew.
  await upstream.say(encodeKeepalive({ walEnd: END, sentAt: 1n, replyRequested: false }));
  await upstream.clock.pass(5_000);
  assert.equal(decodeStatusUpdate(upstream.heard().subarray(5)).replyRequested, true);
  await upstream.clock.pass(5_000);
  await ended;
});

test('an upstream that does not answer START_REPLICATION is left, and asked nothing', async () => {
  const range = { start: START, until: END, begins: false };
  const { upstream, supervised } = await openOlder(range);
  const ended = assert.rejects(supervised, /due to timeout$/);
  upstream.heard();
  await upstream.clock.pass(10_000);
  await ended;
  assert.equal(upstream.heard().length, 0);
});

test('an upstream that is not being read may be silent', async () => {
  // While the reader is slow.
  const slow = await openOlder({ start: START, until: END });
  await sendWal(slow.upstream, 0, WAL.length);
  for (let turn = 0; turn < 20; turn++) await settle();
  await slow.upstream.clock.pass(30_000);
  await goesOn(slow);

  // When all has been served, and the reader is not through yet.
  const done = await openOlder({ start: START, until: advance(START, 5_000) });
  await sendWal(done.upstream, 0, 900_000);
  await done.running;
  await done.upstream.clock.pass(30_000);
  await goesOn(done);
});

async function goesOn({ supervised, stop }: Awaited<ReturnType<typeof openOlder>>): Promise<void> {
  stop.abort(new Error('it went on'));
  await assert.rejects(supervised, /it went on/);
}

async function openOlder({
  start,
  until,
  segmentBytes = MB,
  begins = true,
}: {
  start: Lsn;
  until: Lsn;
  segmentBytes?: number;
  begins?: boolean;
}) {
  const upstream = new MemoryUpstream();
  const client = await upstream.connect();
  const older = new UpstreamWal({
    client,
    timeline: timelineId(1),
    start,
    until,
    segmentBytes,
    systemIdentifier: CLUSTER,
    clock: upstream.clock,
    timeoutMs: () => 10_000,
  });
  const stop = new AbortController();
  const running = older.run(stop.signal);
  running.catch(() => {});
  const supervised = older.supervise(stop.signal);
  supervised.catch(() => {});
  if (begins) await upstream.say(encodeCopyBothResponse());
  return { upstream, older, running, supervised, stop };
}

function frame(start: Lsn, bytes: Buffer): Buffer[] {
  return [encodeWalDataFrame({ start, walEnd: END, sentAt: 1n }, bytes.length), bytes];
}

/** Sends a range of the WAL in messages as a server's. */
async function sendWal(upstream: MemoryUpstream, from: number, to: number): Promise<void> {
  const frames: Buffer[] = [];
  for (let at = from; at < to; at += 131_072) {
    frames.push(...frame(advance(START, at), WAL.subarray(at, Math.min(to, at + 131_072))));
  }
  await upstream.say(...frames);
}

function readUpTo(older: UpstreamWal, from: Lsn, to: Lsn): Buffer {
  const parts: Buffer[] = [];
  for (let at = from; at < to; ) {
    const { bytes } = older.read(at, to);
    parts.push(Buffer.from(bytes));
    at = advance(at, bytes.length);
  }
  return Buffer.concat(parts);
}
