/** Where messages are cut, and that a feed sends all of a source's WAL, once, in order. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { Watermark } from '../base/watermark.ts';
import { Connection } from '../protocol/connection.ts';
import { type Message, MessageReader } from '../protocol/message-reader.ts';
import { decodeWalDataHeader } from '../protocol/replication-messages.ts';
import { type Lsn, advance, distance, lsn } from '../wal/lsn.ts';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { ManualClock, settle } from '../../test/harness/manual-clock.ts';
import { MESSAGE_BYTES_MAX, feedWal, messageEnd } from './wal-feed.ts';

const PAGE = 8192;

test('a message ends where the WAL ends, or at a page boundary below that', () => {
  const cases: [sent: bigint, walEnd: bigint, end: bigint][] = [
    [0n, 1n, 1n],
    [0n, 131_071n, 131_071n],
    [0n, 131_072n, 131_072n],
    [0n, 131_073n, 131_072n],
    [100n, 131_172n, 131_172n],
    [100n, 131_173n, 131_072n],
    [8191n, 139_264n, 131_072n],
    [8192n, 1_000_000n, 139_264n],
    [131_071n, 1_000_000n, 253_952n],
    [0xffff_ffff_0000n, 0xffff_ffff_0001n, 0xffff_ffff_0001n],
  ];
  for (const [sent, walEnd, end] of cases) {
    assert.equal(messageEnd(lsn(sent), lsn(walEnd)), end, `${sent} of ${walEnd}`);
  }
});

test('no cut is anywhere else, none is too long and each makes progress', () => {
  fc.assert(
    fc.property(fc.bigInt(0n, 2n ** 48n), fc.bigInt(1n, 2n ** 20n), (sent, bytes) => {
      const walEnd = lsn(sent + bytes);
      const end = messageEnd(lsn(sent), walEnd);
      assert.ok(end > sent && end <= walEnd);
      assert.ok(distance(lsn(sent), end) <= MESSAGE_BYTES_MAX);
      assert.ok(end === walEnd || end % BigInt(PAGE) === 0n);
    }),
  );
});

test('a feed sends what there is, waits for more, and stops at the end', async () => {
  const wal = Buffer.from(Array.from({ length: 700_000 }, (_, i) => i % 251));
  const served = new Watermark(lsn(500n));
  const source = {
    served,
    read: (start: Lsn, end: Lsn) => ({
      bytes: wal.subarray(Number(start), Math.min(Number(end), Number(start) + 100_000)),
      release: () => released++,
    }),
  };
  let released = 0;
  let caughtUp = 0;
  const sent: Lsn[] = [];
  const [near, far] = duplexPair();
  const received = collect(near);
  const feeding = feedWal(source, connectionOf(far), {
    start: lsn(0n),
    until: lsn(700_000n),
    clock: new ManualClock(),
    signal: new AbortController().signal,
    onSent: (position) => sent.push(position),
    onCaughtUp: () => caughtUp++,
  });
  await settle();
  assert.deepEqual(sent, [500n]);
  assert.equal(caughtUp, 1);
  served.advance(lsn(600_000n));
  await settle();
  assert.equal(sent.at(-1), 600_000n);
  served.advance(lsn(900_000n));
  await feeding;
  await settle();

  // Contiguous, whole, and nothing of the source is held any more.
  let position = lsn(0n);
  const parts = received.messages.map(({ body }) => {
    const { start, walEnd } = decodeWalDataHeader(body);
    assert.equal(start, position);
    position = advance(position, body.length - 25);
    assert.ok(walEnd >= position && walEnd <= 700_000n);
    return body.subarray(25);
  });
  assert.deepEqual(Buffer.concat(parts), wal);
  assert.equal(released, parts.length);
});

test('a feed whose downstream takes nothing stops reading, and ends by its signal', async () => {
  let reads = 0;
  const bytes = Buffer.alloc(MESSAGE_BYTES_MAX);
  const source = {
    served: new Watermark(lsn(1n << 30n)),
    read: () => {
      reads++;
      return { bytes, release: () => {} };
    },
  };
  const [, far] = duplexPair();
  const connection = connectionOf(far);
  const feeding = feedWal(source, connection, {
    start: lsn(0n),
    until: lsn(1n << 30n),
    clock: new ManualClock(),
    signal: new AbortController().signal,
    onSent: () => {},
    onCaughtUp: () => assert.fail('there is more'),
  });
  const ended = assert.rejects(feeding, { sqlstate: '08006' });
  await settle();
  const taken = reads;
  // One batch of 1 MB that the stream's own buffer took, and one that waits.
  assert.ok(taken <= 16, `${taken} reads`);
  await settle();
  connection.close();
  await ended;
  assert.equal(reads, taken);
});

function connectionOf(socket: ReturnType<typeof duplexPair>[0]): Connection {
  return new Connection(socket, { limits: { bodyBytesMax: () => 1000 }, lostMessage: 'lost' });
}

function collect(socket: ReturnType<typeof duplexPair>[0]): { messages: Message[] } {
  const reader = new MessageReader({ bodyBytesMax: () => 1_000_000 });
  const messages: Message[] = [];
  socket.on('data', (chunk: Buffer) => reader.push(chunk, messages));
  return { messages };
}
