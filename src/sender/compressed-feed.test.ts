/** WAL over compressed links: what is sent, that it is made once, and that it is what it was. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { ManualClock } from '../../test/harness/manual-clock.ts';
import { Watermark } from '../base/watermark.ts';
import { CompressedWalReader } from '../protocol/compressed-wal.ts';
import { Connection } from '../protocol/connection.ts';
import { type Message, MessageReader } from '../protocol/message-reader.ts';
import { WAL_DATA_HEADER_BYTES, decodeWalDataHeader } from '../protocol/replication-messages.ts';
import { type Zstd, loadZstd } from '../protocol/zstd.ts';
import { type Lsn, advance, distance, lsn, timelineId } from '../wal/lsn.ts';
import { feedCompressedWal, sharedMessageEnd } from './compressed-feed.ts';
import { WalFrames } from './wal-frames.ts';
import type { WalSource } from './wal-source.ts';

const START = lsn(0x100_0000n);
const GRID = 128 * 1024;
const limits = { bodyBytesMax: () => 1_000_000 };

test('messages end at the same places, wherever a downstream began', () => {
  const at = (offset: number): Lsn => advance(START, offset);
  for (const [sent, walEnd, end] of [
    [0, 1_000_000, GRID],
    [8192, 1_000_000, GRID],
    [GRID, 1_000_000, 2 * GRID],
    [GRID - 1, 1_000_000, GRID],
    [0, 700, 700],
    [GRID, GRID + 1, GRID + 1],
  ] as const) {
    assert.equal(sharedMessageEnd(at(sent), at(walEnd)), at(end), `${sent} of ${walEnd}`);
  }
});

test('all that is sent is the WAL, most of it compressed', async () => {
  const wal = records(700_000);
  const { received, types, wireBytes } = await send(wal, new WalFrames());
  assert.ok(received.equals(wal));
  assert.ok(types.every((type) => type === 'z'));
  assert.ok(wireBytes < wal.length / 3, `${wireBytes} bytes`);
});

test('what is short or does not compress is sent as it is', async () => {
  const short = records(300);
  assert.deepEqual((await send(short, new WalFrames())).types, ['w']);
  const random = randomBytes(500_000);
  const { received, types } = await send(random, new WalFrames());
  assert.ok(received.equals(random));
  assert.ok(types.every((type) => type === 'w'));
});

test('a frame is made once for all downstreams that are sent the same', async () => {
  const wal = records(1_000_000);
  const { zstd, made } = await counted();
  const frames = new WalFrames();
  const starts = [0, 0, 8192, 100_000, 0];
  const all = await Promise.all(starts.map((from) => send(wal, frames, { from, zstd })));
  for (const [i, from] of starts.entries()) {
    assert.ok(all[i]?.received.equals(wal.subarray(from)));
  }
  // Those of the others' first messages, up to where all messages end, are their own.
  assert.equal(made.length, Math.ceil(wal.length / GRID) + 2);
  assert.ok(made.mostAtOnce <= 2);

  // WAL of another timeline is another's, and so is what one downstream alone reads.
  const before = made.length;
  const other = records(GRID, 'of another timeline');
  const again = await send(other, frames, { timeline: 2, zstd });
  assert.ok(again.received.equals(other));
  const alone = await send(other, frames, { timeline: undefined, zstd });
  assert.ok(alone.received.equals(other));
  assert.equal(made.length, before + 2);
});

/** Feeds `wal` from `from` to its end, and what a downstream makes of it. */
async function send(
  wal: Buffer,
  frames: WalFrames,
  options: { from?: number; timeline?: number | undefined; zstd?: Zstd } = {},
) {
  const { from = 0 } = options;
  const zstd = options.zstd ?? (await loadZstd());
  const timeline = 'timeline' in options ? options.timeline : 1;
  const [near, far] = duplexPair();
  const reader = new MessageReader(limits);
  const messages: Message[] = [];
  let wireBytes = 0;
  near.on('data', (chunk: Buffer) => {
    wireBytes += chunk.length;
    reader.push(chunk, messages);
  });
  const until = advance(START, wal.length);
  const source: WalSource = {
    served: new Watermark(until),
    ...(timeline === undefined ? {} : { timeline: timelineId(timeline) }),
    read: (start, end) => ({
      bytes: wal.subarray(distance(START, start), distance(START, end)),
      release: () => {},
    }),
  };
  const compressor = { zstd, frames };
  await feedCompressedWal(source, new Connection(far, { limits, lostMessage: '' }), compressor, {
    start: advance(START, from),
    until,
    clock: new ManualClock(),
    signal: new AbortController().signal,
    onSent: () => {},
    onCaughtUp: () => {},
  });
  const compressed = new CompressedWalReader(zstd);
  let position = advance(START, from);
  const pieces = messages.map((message) => {
    const isCompressed = message.body[0] === 0x7a;
    const { start, wal: bytes } = isCompressed
      ? (compressed.push(message) ?? assert.fail())
      : { ...decodeWalDataHeader(message.body), wal: message.body.subarray(WAL_DATA_HEADER_BYTES) };
    assert.equal(start, position);
    position = advance(position, bytes.length);
    return bytes;
  });
  const types = messages.map(({ body }) => String.fromCharCode(body[0] ?? 0));
  return { received: Buffer.concat(pieces), types, wireBytes };
}

/** A zstd that remembers what it has made. */
async function counted() {
  const zstd = await loadZstd();
  const made = { length: 0, atOnce: 0, mostAtOnce: 0 };
  const compress: Zstd['compress'] = async (bytes, level) => {
    made.length += 1;
    made.atOnce += 1;
    made.mostAtOnce = Math.max(made.mostAtOnce, made.atOnce);
    try {
      return await zstd.compress(bytes, level);
    } finally {
      made.atOnce -= 1;
    }
  };
  return { zstd: { ...zstd, compress }, made };
}

/** So many bytes of something that repeats itself as WAL does. */
function records(bytes: number, what = 'of table'): Buffer {
  const pieces: Buffer[] = [];
  for (let i = 0, length = 0; length < bytes; i++) {
    const piece = Buffer.from(`record ${i} ${what} ${i * 7919}\0\0\0\0`);
    pieces.push(piece);
    length += piece.length;
  }
  return Buffer.concat(pieces).subarray(0, bytes);
}
