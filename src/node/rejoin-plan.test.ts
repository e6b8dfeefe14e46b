/** What becomes of a data directory, as decided by histories and positions. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { partingPoint } from '../wal/history-parting.ts';
import type { TimelineHistory } from '../wal/history.ts';
import { type Lsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { type OwnData, type UpstreamWal, chooseCourse, describeLoss } from './rejoin-plan.ts';

test('data that ends at the fork follows as it is, what lies past it is taken back', () => {
  const upstream = { history: history(2, '0/50'), walEnd: lsn('0/90') };
  const data = { history: history(1), isPrimary: true };
  for (const end of ['0/40', '0/50']) {
    assert.deepEqual(courseOf({ ...data, end: lsn(end) }, upstream), { kind: 'follow' });
  }
  for (const end of [lsn('0/58'), undefined]) {
    assert.deepEqual(courseOf({ ...data, end }, upstream), {
      kind: 'take back',
      loss: { timeline: 1, from: lsn('0/50'), to: end },
    });
  }
});

test('an upstream that nobody promoted after this node is refused', () => {
  const same = { history: history(2, '0/50'), walEnd: lsn('0/90') };
  const primary = { history: history(2, '0/50'), end: lsn('0/80'), isPrimary: true };
  assert.throws(() => courseOf(primary, same), {
    sqlstate: '55000',
    message: 'upstream is on timeline 2, like this node',
  });
  assert.throws(() => courseOf(primary, { history: history(1), walEnd: lsn('0/90') }), {
    sqlstate: '55000',
    message: 'upstream is on timeline 1, behind timeline 2 of this node',
  });
});

test('a standby may follow on its own timeline, unless it is ahead', () => {
  const upstream = { history: history(1), walEnd: lsn('0/90') };
  const standby = { history: history(1), isPrimary: false };
  const course = courseOf({ ...standby, end: lsn('0/90') }, upstream);
  assert.deepEqual(course, { kind: 'follow' });
  assert.throws(() => courseOf({ ...standby, end: lsn('0/91') }, upstream), {
    sqlstate: '55000',
    message: 'this node has replayed WAL up to 0/91, ahead of the upstream at 0/90',
  });
});

test('what is lost is told in bytes and transactions', () => {
  const loss = { timeline: timelineId(1), from: lsn('0/5000000'), to: lsn('0/5005000') };
  const secondUs = 1_000_000n;
  const commits = { count: 3, firstUs: 0n, lastUs: 61n * secondUs };
  assert.deepEqual(describeLoss(loss, commits), {
    wal: '20 kB of WAL on timeline 1 after 0/5000000, up to 0/5005000',
    transactions: '3, committed from 2000-01-01 00:00:00 UTC to 2000-01-01 00:01:01 UTC',
  });
  const none = { count: 0, firstUs: undefined, lastUs: undefined };
  assert.equal(describeLoss(loss, none).transactions, 'none');
  const one = { count: 1, firstUs: 1n, lastUs: 1n };
  const told = describeLoss(loss, one).transactions;
  assert.equal(told, '1, committed at 2000-01-01 00:00:00 UTC');
  assert.deepEqual(describeLoss({ ...loss, to: undefined }, undefined), {
    wal: 'all WAL on timeline 1 after 0/5000000',
    transactions: 'cannot be counted, as that WAL is not here any more',
  });
  const absurd = { count: 1, firstUs: 2n ** 63n - 1n, lastUs: 2n ** 63n - 1n };
  assert.match(describeLoss(loss, absurd).transactions, /no time$/);
});

function courseOf(own: OwnData, upstream: UpstreamWal) {
  return chooseCourse(own, upstream, partingPoint(own.history, upstream.history));
}

function lsn(text: string): Lsn {
  return parseLsn(text);
}

/** Timelines 1, 2, … up to `timeline`, which were left at `switchPoints`. */
function history(timeline: number, ...switchPoints: string[]): TimelineHistory {
  const entries = switchPoints.map((text, index) => {
    return { timeline: timelineId(index + 1), switchPoint: lsn(text) };
  });
  return { timeline: timelineId(timeline), entries };
}
