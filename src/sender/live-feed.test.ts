/** That a live feed sends each message to all who are where it begins, and lets the others go. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Watermark } from '../base/watermark.ts';
import { Connection } from '../protocol/connection.ts';
import { type Message, MessageReader } from '../protocol/message-reader.ts';
import { decodeWalDataHeader } from '../protocol/replication-messages.ts';
import { type Lsn, lsn, timelineId } from '../wal/lsn.ts';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { ManualClock, settle } from '../../test/harness/manual-clock.ts';
import { LIVE_BYTES_MAX, LiveFeed, LiveFeeds } from './live-feed.ts';
import { feedWal } from './wal-feed.ts';

const END_OF_TIME = lsn(1n << 60n);
const WAL = Buffer.from(Array.from({ length: 500_000 }, (_, i) => i % 251));

test('each message is made once for all, and a feed that is behind goes its own way', async () => {
  const { source, reads } = walSource(100n);
  const live = new LiveFeed(source, new ManualClock());
  const followers = [downstream(source, live, 100n), downstream(source, live, 100n)];
  const behind = downstream(source, live, 0n);
  await settle();
  reads.count = 0;
  source.served.advance(lsn(300n));
  source.served.advance(lsn(500n));
  await settle();
  assert.equal(reads.count, 1);
  for (const { messages, sent } of [...followers, behind]) {
    assert.equal(sent(), 500n);
    const { start, walEnd } = decodeWalDataHeader(messages.at(-1)?.body as Buffer);
    assert.deepEqual([start, walEnd], [100n, 500n]);
    assert.deepEqual(messages.at(-1)?.body.subarray(25), WAL.subarray(100, 500));
  }
  assert.deepEqual(received(behind.messages), WAL.subarray(0, 500));
});

test('one who comes while a message is due is sent nothing twice and misses nothing', async () => {
  const { source } = walSource(100n);
  const live = new LiveFeed(source, new ManualClock());
  source.served.advance(lsn(200n));
  const late = downstream(source, live, 200n);
  await settle();
  source.served.advance(lsn(300n));
  await settle();
  assert.deepEqual(received(late.messages), WAL.subarray(200, 300));
});

test('what is much, or past the end of its part, is left to the downstream', async () => {
  const { source } = walSource(100n);
  const live = new LiveFeed(source, new ManualClock());
  const one = downstream(source, live, 100n);
  const other = downstream(source, live, 100n, lsn(150_000n));
  await settle();
  source.served.advance(lsn(101n + BigInt(LIVE_BYTES_MAX)));
  await settle();
  source.served.advance(lsn(200_000n));
  await settle();
  assert.deepEqual(received(one.messages), WAL.subarray(100, 200_000));
  assert.deepEqual(received(other.messages), WAL.subarray(100, 150_000));
  await other.fed;
});

test('a downstream that stops reading costs one message, and holds up nobody', async () => {
  const { source } = walSource(100n);
  const live = new LiveFeed(source, new ManualClock());
  const reading = downstream(source, live, 100n);
  const stuck = downstream(source, live, 100n, END_OF_TIME, { reads: false });
  await settle();
  for (let position = 200n; position <= 450_000n; position += 10_000n) {
    source.served.advance(lsn(position));
    await settle();
  }
  assert.equal(received(reading.messages).length, 440_100);
  assert.ok(stuck.sent() < 100_000n, `sent up to ${stuck.sent()}`);
  stuck.connection.close();
  await assert.rejects(stuck.fed, { sqlstate: '08006' });
});

test('a follower that is called off leaves with the reason', async () => {
  const { source } = walSource(100n);
  const live = new LiveFeed(source, new ManualClock());
  const one = downstream(source, live, 100n);
  await settle();
  one.stop.abort(new Error('called off'));
  await assert.rejects(one.fed, /called off/);
  source.served.advance(lsn(200n));
  await settle();
  assert.equal(one.messages.length, 0);
});

test('a store that goes on with another timeline has another feed', () => {
  const feeds = new LiveFeeds();
  const clock = new ManualClock();
  const { source } = walSource(100n);
  const before = feeds.of(source, clock);
  assert.equal(feeds.of({ ...source }, clock), before);
  assert.notEqual(feeds.of(walSource(100n).source, clock), before);
});

function walSource(served: bigint) {
  const reads = { count: 0 };
  const read = (start: Lsn, end: Lsn) => {
    reads.count++;
    return { bytes: WAL.subarray(Number(start), Number(end)), release: () => {} };
  };
  return { source: { served: new Watermark(lsn(served)), timeline: timelineId(1), read }, reads };
}

function downstream(
  source: ReturnType<typeof walSource>['source'],
  live: LiveFeed,
  start: bigint,
  until = END_OF_TIME,
  { reads } = { reads: true },
) {
  const [near, far] = duplexPair();
  const messages: Message[] = [];
  const reader = new MessageReader({ bodyBytesMax: () => 1_000_000 });
  if (reads) near.on('data', (chunk: Buffer) => reader.push(chunk, messages));
  const connection = new Connection(far, {
    limits: { bodyBytesMax: () => 1000 },
    lostMessage: 'lost',
  });
  const stop = new AbortController();
  let position = lsn(start);
  const options = {
    start: position,
    until,
    clock: new ManualClock(),
    signal: stop.signal,
    onSent: (sent: Lsn) => {
      position = sent;
    },
    onCaughtUp: () => {},
  };
  const fed = feedWal(source, connection, options, live);
  fed.catch(() => {});
  return { connection, messages, stop, fed, sent: () => position };
}

function received(messages: readonly Message[]): Buffer {
  return Buffer.concat(messages.map(({ body }) => body.subarray(25)));
}
