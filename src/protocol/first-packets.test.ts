/** The packets before there are messages, in whatever pieces they come. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import { ConnectionLost } from './connection.ts';
import { FirstPackets } from './first-packets.ts';
import { encodeSslRequest, encodeStartup } from './startup.ts';

const STARTUP = encodeStartup({ user: 'postgres', replication: 'true' });
const SSL = encodeSslRequest();

test('packets come out whole wherever the stream is cut, what follows is given back', async () => {
  const stream = Buffer.concat([SSL, STARTUP, Buffer.from('after')]);
  for (let cut = 0; cut <= stream.length; cut++) {
    const [near, far] = duplexPair();
    const packets = new FirstPackets(near);
    if (cut > 0) far.write(stream.subarray(0, cut));
    await settle();
    if (cut < stream.length) far.write(stream.subarray(cut));
    assert.deepEqual(await packets.read(), SSL.subarray(4));
    assert.deepEqual(await packets.read(), STARTUP.subarray(4));
    await settle();
    assert.equal(packets.release().toString(), 'after');
  }
});

test('the longest packet is read though more comes before and behind it', async () => {
  const longest = Buffer.alloc(10_000, 'x');
  longest.writeUInt32BE(10_000, 0);
  const [near, far] = duplexPair();
  const packets = new FirstPackets(near);
  // More than fits a reader's buffer, and still not all of the packet.
  far.write(Buffer.concat([SSL, longest.subarray(0, 9_998)]));
  assert.deepEqual(await packets.read(), SSL.subarray(4));
  const reading = packets.read();
  await settle();
  far.write(Buffer.concat([longest.subarray(9_998), Buffer.from('after')]));
  assert.deepEqual(await reading, longest.subarray(4));
  assert.equal(packets.release().toString(), 'after');
});

test('a length that no first packet can have is refused', async () => {
  for (const [header, length] of [
    ['00000007', 7],
    ['00000000', 0],
    ['00002711', 10_001],
    ['ffffffff', 4_294_967_295],
    ['47455420', 1_195_725_856],
  ] as const) {
    const [near, far] = duplexPair();
    const reading = new FirstPackets(near).read();
    far.write(Buffer.from(header, 'hex'));
    await assert.rejects(reading, {
      sqlstate: '08P01',
      message: 'invalid length of startup packet',
      detail: `The length is ${length}.`,
    });
  }
});

test('a stream that ends before the packet does is lost', async () => {
  for (const bytes of [Buffer.alloc(0), STARTUP.subarray(0, 3), STARTUP.subarray(0, -1)]) {
    const [near, far] = duplexPair();
    const reading = new FirstPackets(near).read();
    far.end(bytes);
    await assert.rejects(reading, ConnectionLost);
  }
  const [near, far] = duplexPair();
  const packets = new FirstPackets(near);
  far.write(SSL);
  await settle();
  near.destroy();
  await settle();
  assert.deepEqual(await packets.read(), SSL.subarray(4));
  await assert.rejects(packets.read(), ConnectionLost);
});
