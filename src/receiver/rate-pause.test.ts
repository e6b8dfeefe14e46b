/** A stream that is held to a rate: its pauses, and an upstream that shuts down meanwhile. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ManualClock, settle } from '../../test/harness/manual-clock.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { RatePause } from './rate-pause.ts';

function link() {
  const clock = new ManualClock();
  const state = { rate: 1000, read: 0, asked: 0, refusal: undefined as WalcadeError | undefined };
  const pause = new RatePause({
    bytesPerSecond: () => state.rate,
    readBytes: () => state.read,
    askUpstream: async () => {
      state.asked += 1;
      if (state.refusal !== undefined) throw state.refusal;
    },
    clock,
  });
  const { signal } = new AbortController();
  return { clock, state, pause, signal };
}

/** Begins to pass; whether it is through, and how many waits it has begun. */
function passing({ pause, signal }: ReturnType<typeof link>) {
  const progress = { isThrough: false, waits: 0 };
  void pause.pass(() => (progress.waits += 1), signal).then(() => (progress.isThrough = true));
  return progress;
}

test('intake rests until what was read is within the rate', async () => {
  const under = link();
  under.state.read = 2500;
  const progress = passing(under);
  await under.clock.pass(2400);
  assert.deepEqual(progress, { isThrough: false, waits: 3 });
  await under.clock.pass(100);
  assert.ok(progress.isThrough);
});

test('without a limit it never rests; another limit is in force within a second', async () => {
  const under = link();
  under.state.rate = 0;
  under.state.read = 1_000_000_000;
  const free = passing(under);
  await settle();
  assert.deepEqual(free, { isThrough: true, waits: 0 });

  under.state.rate = 1000;
  under.state.read += 60_000;
  const slow = passing(under);
  await under.clock.pass(500);
  under.state.rate = 0;
  await under.clock.pass(499);
  assert.ok(!slow.isThrough);
  await under.clock.pass(1);
  assert.ok(slow.isThrough);
});

test('an upstream that lets nobody in while the link is held back is left', async () => {
  const under = link();
  const watching = under.pause.watch(under.signal);
  watching.catch(() => {});
  // Nothing is held back, so nothing is asked.
  await under.clock.pass(20_000);
  assert.equal(under.state.asked, 0);

  // Too many connections is no shutdown.
  under.state.read = 100_000;
  under.state.refusal = new WalcadeError(SQLSTATE.TOO_MANY_CONNECTIONS, 'too many clients');
  passing(under);
  await under.clock.pass(6_000);
  assert.equal(under.state.asked, 1);

  under.state.refusal = new WalcadeError(
    SQLSTATE.CANNOT_CONNECT_NOW,
    'the database system is shutting down',
  );
  await under.clock.pass(5_000);
  await assert.rejects(watching, {
    sqlstate: '57P03',
    detail: 'It says: the database system is shutting down.',
  });
});
