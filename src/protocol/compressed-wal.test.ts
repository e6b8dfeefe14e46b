/** Compressed WalData as it comes: in pieces, whole, and as a hostile peer would send it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lsn } from '../wal/lsn.ts';
import { COMPRESSED_WAL_BYTES_MAX, CompressedWalReader } from './compressed-wal.ts';
import { type Message, MessageReader } from './message-reader.ts';
import { WAL_DATA_HEADER_BYTES, encodeCompressedWalFrame } from './replication-messages.ts';
import { loadZstd } from './zstd.ts';

const header = { start: lsn(0x5000000n), walEnd: lsn(0x5000400n), sentAt: 7n };
const WAL = Buffer.from('a record of the heap, '.repeat(60));

async function compressedMessage(wal: Buffer): Promise<Buffer> {
  const frame = await (await loadZstd()).compress(wal, 1);
  return Buffer.concat([encodeCompressedWalFrame(header, frame.length), frame]);
}

/** The messages of `pieces`, with CopyData in fragments as it comes. */
function read(pieces: readonly Buffer[]): Message[] {
  const limits = { bodyBytesMax: () => 1_000_000, copyDataHeadBytes: WAL_DATA_HEADER_BYTES };
  const reader = new MessageReader(limits);
  const messages: Message[] = [];
  for (const piece of pieces) reader.push(piece, messages);
  return messages;
}

test('the message is a type, the header of a WalData, and one frame', async () => {
  const message = await compressedMessage(WAL);
  const head = message.subarray(0, 30).toString('hex');
  const length = (message.length - 1).toString(16).padStart(8, '0');
  assert.equal(head, `64${length}7a000000000500000000000000050004000000000000000007`);
  assert.equal(message.subarray(30, 34).toString('hex'), '28b52ffd');
});

test('a message is read whole, cut anywhere, and two in a row', async () => {
  const message = await compressedMessage(WAL);
  const reader = new CompressedWalReader(await loadZstd());
  for (let cut = 0; cut <= message.length; cut++) {
    const pieces = [message.subarray(0, cut), Buffer.concat([message.subarray(cut), message])];
    const whole = read(pieces).flatMap((each) => reader.push(each) ?? []);
    assert.deepEqual(whole, [
      { ...header, wal: WAL },
      { ...header, wal: WAL },
    ]);
    assert.ok(!reader.isInside);
  }
});

test('a message is as long as WAL may be, and no longer', async () => {
  const reader = new CompressedWalReader(await loadZstd());
  const most = Buffer.alloc(COMPRESSED_WAL_BYTES_MAX, 'most of it');
  const [message] = read([await compressedMessage(most)]);
  assert.ok(reader.push(message as Message)?.wal.equals(most));
  const more = read([await compressedMessage(Buffer.alloc(COMPRESSED_WAL_BYTES_MAX + 1))]);
  assert.throws(() => reader.push(more[0] as Message), { sqlstate: '08P01' });

  // One that would be longer than its WAL may be is refused by its length, before it has come.
  const bodyBytes = WAL_DATA_HEADER_BYTES + COMPRESSED_WAL_BYTES_MAX + 1;
  const first = { type: 0x64, body: Buffer.alloc(30, 'z'), offset: 0, bodyBytes };
  assert.throws(() => reader.push(first), {
    sqlstate: '08P01',
    message: 'invalid compressed WAL data',
    detail: 'The message has 131098 bytes, at most 131097 are allowed.',
  });
});

test('a message without a frame, or without all of its header, is refused', async () => {
  const reader = new CompressedWalReader(await loadZstd());
  const message = await compressedMessage(WAL);
  for (let length = 1; length < message.length - 5; length++) {
    const body = message.subarray(5, 5 + length);
    const cut = { type: 0x64, body, offset: 0, bodyBytes: length };
    assert.throws(() => reader.push(cut), { sqlstate: '08P01' }, `${length} bytes`);
  }
});
