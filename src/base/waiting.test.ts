/**
 * What waits and how long: watermark, condition, serial, task group and backoff, on a clock that
 * moves only when the test says so.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { retryDelayMs } from './backoff.ts';
import type { Clock } from './clock.ts';
import { Condition } from './condition.ts';
import { Serial } from './serial.ts';
import { GroupEnded, endTogether } from './task-group.ts';
import { Watermark } from './watermark.ts';

const NEVER = new AbortController().signal;

/** A clock that stands still; `pass` ends all timers up to then. */
function standingClock(): { clock: Clock; pass: (ms: number) => void; timers: Set<unknown> } {
  const timers = new Set<{ dueMs: number; action: () => void }>();
  let nowMs = 0;
  const clock: Clock = {
    timestampUs: () => BigInt(nowMs) * 1000n,
    nowMs: () => nowMs,
    monotonicMs: () => nowMs,
    setTimer: (delayMs, action) => {
      const timer = { dueMs: nowMs + delayMs, action };
      timers.add(timer);
      return { cancel: () => void timers.delete(timer) };
    },
    sleep: () => Promise.reject(new Error('nothing here sleeps')),
  };
  const pass = (ms: number): void => {
    nowMs += ms;
    for (const timer of timers) {
      if (timer.dueMs > nowMs) continue;
      timers.delete(timer);
      timer.action();
    }
  };
  return { clock, pass, timers };
}

test('a watermark wakes those whose position it has passed, and nobody else', async () => {
  const { clock, timers } = standingClock();
  const mark = new Watermark<bigint>(10n);
  const wait = { timeoutMs: 1000, clock, signal: NEVER };
  assert.equal(await mark.waitPast(9n, wait), true);
  const woken: string[] = [];
  const at10 = mark.waitPast(10n, wait).then(() => woken.push('10'));
  const at20 = mark.waitPast(20n, wait).then(() => woken.push('20'));
  mark.advance(20n);
  await at10;
  assert.deepEqual(woken, ['10']);
  mark.advance(21n);
  await at20;
  assert.deepEqual(woken, ['10', '20']);
  assert.equal(timers.size, 0);
});

test('a watermark does not go back', () => {
  const mark = new Watermark<bigint>(10n);
  mark.advance(10n);
  assert.throws(() => mark.advance(9n), /a watermark only advances/);
});

test('a wait for a watermark ends by time or signal, with nothing left behind', async () => {
  const { clock, pass, timers } = standingClock();
  const mark = new Watermark<bigint>(10n);
  const late = mark.waitPast(10n, { timeoutMs: 50, clock, signal: NEVER });
  pass(50);
  assert.equal(await late, false);
  const stop = new AbortController();
  const stopped = mark.waitPast(10n, { timeoutMs: 50, clock, signal: stop.signal });
  const reason = new Error('asked to stop');
  stop.abort(reason);
  await assert.rejects(stopped, reason);
  const aborted = mark.waitPast(0n, { timeoutMs: 50, clock, signal: stop.signal });
  await assert.rejects(aborted, reason);
  assert.equal(timers.size, 0);
});

test('a condition wakes all who wait, once, and those who listen each time', async () => {
  const { clock, pass, timers } = standingClock();
  const condition = new Condition();
  let heard = 0;
  const stopListening = condition.listen(() => (heard += 1));
  const both = Promise.all([condition.wait(NEVER), condition.waitAtMost(50, clock, NEVER)]);
  condition.notify();
  await both;
  condition.notify();
  stopListening();
  condition.notify();
  assert.equal(heard, 2);
  const late = condition.waitAtMost(50, clock, NEVER);
  pass(50);
  await late;
  assert.equal(timers.size, 0);
  await assert.rejects(condition.wait(AbortSignal.abort(new Error('stop'))), /stop/);
});

test('actions in a series run one after the other, also after one that was refused', async () => {
  const serial = new Serial();
  const order: string[] = [];
  let release = (): void => {};
  const first = serial.run(async () => {
    await new Promise<void>((resolve) => (release = resolve));
    order.push('first');
    throw new Error('refused');
  });
  const second = serial.run(async () => order.push('second'));
  await Promise.resolve();
  release();
  await assert.rejects(first, /refused/);
  assert.equal(await second, 2);
  assert.deepEqual(order, ['first', 'second']);
});

test('when one task of a group ends, the others are asked to stop and awaited', async () => {
  let hasStopped = false;
  const untilStopped = (signal: AbortSignal): Promise<void> =>
    new Promise((_, reject) => {
      signal.addEventListener('abort', () => {
        hasStopped = true;
        reject(signal.reason as Error);
      });
    });
  await endTogether(NEVER, [untilStopped, async () => {}]);
  assert.ok(hasStopped);

  // The first error is the cause; what the others throw on their way out is not.
  const broken = async (): Promise<void> => Promise.reject(new Error('the cause'));
  await assert.rejects(endTogether(NEVER, [untilStopped, broken]), /the cause/);

  // Asked to stop from outside, the group ends with that reason.
  const stop = new AbortController();
  const group = endTogether(stop.signal, [untilStopped, untilStopped]);
  stop.abort(new Error('asked to stop'));
  await assert.rejects(group, /asked to stop/);
  assert.equal(new GroupEnded('x').name, 'GroupEnded');
});

test('the delay before the next attempt doubles up to its limit', () => {
  const delays = [0, 1, 2, 5, 6, 1000].map((failures) => retryDelayMs(failures, { maxMs: 5000 }));
  assert.deepEqual(delays, [100, 200, 400, 3200, 5000, 5000]);
  assert.equal(retryDelayMs(0, { maxMs: 1 }), 1);
});
