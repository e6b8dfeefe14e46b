/** A connection's reading, writing and end, over streams that the test holds. */
import assert from 'node:assert/strict';
import { type Duplex } from 'node:stream';
import { test } from 'node:test';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { ManualClock, settle } from '../../test/harness/manual-clock.ts';
import { message } from './bytes.ts';
import { Connection, ConnectionLost } from './connection.ts';

const LOST = { name: 'WalcadeError', sqlstate: '08006', message: 'the other side is gone' };

test('messages are read together or one at a time, in order', async () => {
  const { far, connection } = connect();
  far.write(Buffer.concat(['A', 'B', 'C', 'D'].map((type) => message(type))));
  await settle();
  assert.equal(typeOf(await connection.next()), 'A');
  const rest = await connection.read();
  assert.deepEqual(rest.map(typeOf), ['B', 'C', 'D']);
  connection.unread(rest.slice(1));
  assert.equal(typeOf(await connection.next()), 'C');
  assert.equal(typeOf(await connection.next()), 'D');
  const waiting = connection.next();
  far.write(message('E'));
  assert.equal(typeOf(await waiting), 'E');
});

test('a read that is called off takes nothing from who reads next', async () => {
  const { far, near, connection } = connect();
  const reason = new Error('called off');

  // While it waits.
  const stop = new AbortController();
  const waiting = assert.rejects(connection.next(stop.signal), reason);
  stop.abort(reason);
  await waiting;
  far.write(message('A'));
  assert.equal(typeOf(await connection.next()), 'A');

  // When a message has come, and it has not gone on yet.
  const late = new AbortController();
  const woken = assert.rejects(connection.next(late.signal), reason);
  near.once('data', () => late.abort(reason));
  far.write(message('B'));
  await woken;
  await assert.rejects(connection.next(late.signal), reason);
  assert.equal(typeOf(await connection.next()), 'B');
});

test('bytes that were read before come first', async () => {
  const { far, connection } = connect({ readAhead: message('A').subarray(0, 3) });
  far.write(Buffer.concat([message('A').subarray(3), message('B')]));
  assert.equal(typeOf(await connection.next()), 'A');
  assert.equal(typeOf(await connection.next()), 'B');
});

test('no more is read ahead than the limit, also by who takes one at a time', async () => {
  const { far, near, connection } = connect();
  const big = message('d', Buffer.alloc(100_000));
  let written = 0;
  const writeOn = (): void => {
    if (written >= 100) return;
    far.write(big, () => {
      written++;
      writeOn();
    });
  };
  writeOn();
  await settle();
  await settle();
  assert.equal(near.isPaused(), true);
  const ahead = written;
  assert.ok(ahead < 15, `${ahead} messages of 100 kB were taken`);

  // One that is taken makes room for about one.
  for (let taken = 1; taken <= 10; taken++) {
    await connection.next();
    await settle();
    assert.ok(written <= ahead + taken + 2, `${written} after ${taken} were read`);
  }
  // All together make room for as many again; in the end all have come.
  let read = 10;
  while (read < 100) read += (await connection.read()).length;
  assert.equal(read, 100);
});

test('what has come is read before the end is told', async () => {
  const { far, connection } = connect();
  far.end(message('A'));
  await settle();
  assert.equal(connection.closed.aborted, true);
  assert.equal(typeOf(await connection.next()), 'A');
  await assert.rejects(connection.next(), ConnectionLost);
  await assert.rejects(connection.send(message('B')), LOST);
});

test('who waits is told when the other side closes, breaks off or sends no message', async () => {
  const closing = connect();
  const waiting = assert.rejects(closing.connection.read(), LOST);
  closing.far.destroy();
  await waiting;

  const breaking = connect();
  const reset = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' });
  const broken = assert.rejects(breaking.connection.read(), {
    ...LOST,
    detail: 'Connection reset by peer.',
  });
  breaking.near.destroy(reset);
  await broken;

  const talking = connect();
  const refused = assert.rejects(talking.connection.read(), { sqlstate: '08P01' });
  talking.far.write(Buffer.from('GET / HTTP/1.1\r\n'));
  await refused;
  assert.equal(talking.connection.closed.aborted, true);
});

test('a send that is not taken ends with the connection', async () => {
  const { connection } = connect();
  const sending = assert.rejects(connection.send(Buffer.alloc(1_000_000)), LOST);
  const inParts = assert.rejects(connection.send([Buffer.alloc(10), Buffer.alloc(10)]), LOST);
  await settle();
  connection.close();
  await sending;
  await inParts;
});

test('a send of parts puts them on the wire in order', async () => {
  const { far, connection } = connect();
  const heard: Buffer[] = [];
  far.on('data', (chunk: Buffer) => heard.push(chunk));
  await connection.send([Buffer.from('a'), Buffer.from('bc'), Buffer.from('d')]);
  await connection.send(Buffer.from('e'));
  await settle();
  assert.equal(Buffer.concat(heard).toString(), 'abcde');
});

test('reading can be stopped while sending goes on', async () => {
  const { far, connection } = connect();
  const reason = new Error('enough');
  const waiting = assert.rejects(connection.next(), reason);
  connection.stopReading(reason);
  await waiting;
  far.write(message('A'));
  await settle();
  await assert.rejects(connection.read(), reason);
  far.resume();
  await connection.send(message('B'));
});

test('an end waits for what was sent to be taken, but not for ever', async () => {
  const clock = new ManualClock();
  const taken = connect();
  taken.far.resume();
  await taken.connection.send(message('A'));
  await taken.connection.end({ clock, lingerMs: 1000 });
  assert.equal(taken.near.destroyed, true);
  await taken.connection.end({ clock, lingerMs: 1000 });

  const deaf = connect();
  const sending = assert.rejects(deaf.connection.send(Buffer.alloc(1_000_000)));
  let hasEnded = false;
  const ending = deaf.connection.end({ clock, lingerMs: 1000 }).then(() => (hasEnded = true));
  await clock.pass(999);
  assert.equal(hasEnded, false);
  await clock.pass(1);
  await ending;
  await sending;
});

test('a stream that is closed already makes a connection that is closed', async () => {
  const [near] = duplexPair();
  near.on('error', () => {});
  near.destroy();
  const connection = new Connection(near, {
    limits: { bodyBytesMax: () => 10 },
    lostMessage: 'the other side is gone',
  });
  assert.equal(connection.closed.aborted, true);
  await assert.rejects(connection.read(), LOST);
});

function connect({ readAhead }: { readAhead?: Buffer } = {}): {
  near: Duplex;
  far: Duplex;
  connection: Connection;
} {
  const [near, far] = duplexPair();
  far.on('error', () => {});
  const connection = new Connection(near, {
    limits: { bodyBytesMax: () => 1_000_000 },
    lostMessage: 'the other side is gone',
    ...(readAhead === undefined ? {} : { readAhead }),
  });
  return { near, far, connection };
}

function typeOf({ type }: { type: number }): string {
  return String.fromCharCode(type);
}
