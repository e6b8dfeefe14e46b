/** Messages cut out of a stream of bytes, wherever the stream is cut itself. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { message } from './bytes.ts';
import { type Message, type MessageLimits, MessageReader } from './message-reader.ts';

const LIMITS: MessageLimits = { bodyBytesMax: (type) => (type === 0x64 ? 1000 : 100) };
const CONVERSATION = [
  message('Q', Buffer.from('IDENTIFY_SYSTEM\0')),
  message('c'),
  message('d', Buffer.alloc(300, 'wal ')),
  message('X'),
];
const STREAM = Buffer.concat(CONVERSATION);

test('messages come out the same wherever the stream is cut', () => {
  const expected = describe(read([STREAM], LIMITS));
  assert.deepEqual(expected, ['Q 16', 'c 0', 'd 300', 'X 0']);
  for (let cut = 0; cut <= STREAM.length; cut++) {
    const messages = read([STREAM.subarray(0, cut), STREAM.subarray(cut)], LIMITS);
    assert.deepEqual(describe(messages), expected, `cut at ${cut}`);
    assert.deepEqual(Buffer.concat(messages.map(({ body }) => body)), bodies());
  }
  const bytes = [...STREAM].map((byte) => Buffer.from([byte]));
  assert.deepEqual(describe(read(bytes, LIMITS)), expected);
});

test('a message that is not whole is not given', () => {
  for (let end = 0; end < STREAM.length; end++) {
    const messages = read([STREAM.subarray(0, end)], LIMITS);
    const bytes = messages.reduce((sum, { bodyBytes }) => sum + 5 + bodyBytes, 0);
    assert.ok(bytes <= end);
    assert.ok(messages.length < CONVERSATION.length);
  }
});

test('CopyData in fragments is the same bytes, its head in one piece', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(STREAM.length)), (cuts) => {
      const messages = read(cutAt(cuts), { ...LIMITS, copyDataHeadBytes: 25 });
      assert.deepEqual(Buffer.concat(messages.map(({ body }) => body)), bodies());
      let done = 0;
      for (const { type, body, offset, bodyBytes } of messages) {
        if (type !== 0x64) continue;
        assert.equal(bodyBytes, 300);
        assert.equal(offset, done);
        if (offset === 0) assert.ok(body.length >= 25);
        done += body.length;
      }
      assert.equal(done, 300);
    }),
  );
});

test('a CopyData that is shorter than a head, or empty, is one piece', () => {
  const limits = { ...LIMITS, copyDataHeadBytes: 25 };
  const short = Buffer.concat([message('d', Buffer.from('k')), message('d'), message('X')]);
  const bytes = [...short].map((byte) => Buffer.from([byte]));
  assert.deepEqual(describe(read(bytes, limits)), ['d 1', 'd 0', 'X 0']);
});

test('a length that cannot be is refused as soon as it is there', () => {
  for (const [header, length] of [
    ['5100000003', 3],
    ['5100000000', 0],
    ['51ffffffff', 4_294_967_295],
    ['5180000000', 2_147_483_648],
    ['5100000069', 105],
    ['64000003ed', 1005],
  ] as const) {
    assert.throws(() => read([Buffer.from(header, 'hex')], LIMITS), {
      sqlstate: '08P01',
      message: `invalid message length ${length}`,
      detail: `The message's type byte is 0x${header.slice(0, 2)}.`,
    });
  }
  assert.deepEqual(read([Buffer.from('5100000068', 'hex')], LIMITS), []);
});

function read(chunks: readonly Buffer[], limits: MessageLimits): Message[] {
  const reader = new MessageReader(limits);
  const out: Message[] = [];
  for (const chunk of chunks) reader.push(Buffer.from(chunk), out);
  return out;
}

function describe(messages: readonly Message[]): string[] {
  return messages.map(({ type, body }) => `${String.fromCharCode(type)} ${body.length}`);
}

function bodies(): Buffer {
  return Buffer.concat(CONVERSATION.map((each) => each.subarray(5)));
}

function cutAt(cuts: readonly number[]): Buffer[] {
  const sorted = [0, ...[...cuts].sort((a, b) => a - b), STREAM.length];
  return sorted.slice(1).map((to, index) => STREAM.subarray(sorted[index], to));
}
