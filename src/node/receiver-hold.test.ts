/** The WAL receiver is held only where it has no stream, and goes on when it may. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Condition } from '../base/condition.ts';
import { ReceiverHold } from './receiver-hold.ts';

const NEVER = new AbortController().signal;

test('a receiver passes where nobody holds it', async () => {
  await new ReceiverHold().pass(NEVER);
});

test('who holds the receiver is told once its stream has ended and it would connect', async () => {
  const hold = new ReceiverHold();
  const events: string[] = [];
  let endStream = (): void => {};
  const streamEnds = new Promise<void>((resolve) => {
    endStream = resolve;
  });
  const receiver = streamEnds.then(async () => {
    events.push('stream ended');
    await hold.pass(NEVER);
    events.push('connecting');
  });
  await hold.close(endStream, NEVER);
  events.push('held');
  hold.open();
  await receiver;
  assert.deepEqual(events, ['stream ended', 'held', 'connecting']);
});

test('a receiver that is held twice has no stream to end', async () => {
  const hold = new ReceiverHold();
  const ends: string[] = [];
  let receiver = Promise.resolve();
  const end = (): void => {
    ends.push('end');
    receiver = hold.pass(NEVER);
  };
  await hold.close(end, NEVER);
  await hold.close(end, NEVER);
  assert.deepEqual(ends, ['end']);
  hold.open();
  await receiver;
});

test('a receiver that waits for something else stands here as well', async () => {
  const hold = new ReceiverHold();
  const news = new Condition();
  const receiver = hold.stand(news, NEVER);
  await hold.untilReceiverIsHere(NEVER);
  news.notify();
  await receiver;
});

test('a hold that is given up, and a receiver that ends there, tell the reason', async () => {
  const hold = new ReceiverHold();
  const stop = new AbortController();
  const closing = hold.close(() => {}, stop.signal);
  stop.abort(new Error('enough'));
  await assert.rejects(closing, { message: 'enough' });
  await assert.rejects(hold.pass(stop.signal), { message: 'enough' });
  hold.open();
  await hold.pass(NEVER);
});
