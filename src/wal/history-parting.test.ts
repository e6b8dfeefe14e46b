/** Where histories part, seen from either side. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type TimelineHistory, parseHistoryFile, rootHistory } from './history.ts';
import { contestedTimeline, partingPoint } from './history-parting.ts';
import { formatLsn, timelineId } from './lsn.ts';

/** `history(3, '1 0/100', '2 0/200')`: timeline 3, which left 1 at 0/100 and 2 at 0/200. */
function history(timeline: number, ...left: string[]): TimelineHistory {
  const lines = left.map((text) => `${text.replace(' ', '\t')}\tno recovery target specified\n`);
  return parseHistoryFile(timelineId(timeline), lines.join('\n'));
}

function parts(a: TimelineHistory, b: TimelineHistory): string {
  const there = partingPoint(a, b);
  assert.deepEqual(partingPoint(b, a), there, 'it is the same seen from either side');
  if (there === undefined) return 'never';
  return `${there.timeline ?? 'none'} at ${formatLsn(there.position)}`;
}

const one = rootHistory(timelineId(1));

test('histories that are the same do not part', () => {
  assert.equal(parts(one, one), 'never');
  assert.equal(parts(history(3, '1 0/100', '2 0/200'), history(3, '1 0/100', '2 0/200')), 'never');
});

test('a history and one that grew from it part where that left the timeline', () => {
  assert.equal(parts(one, history(2, '1 0/100')), '1 at 0/100');
  assert.equal(parts(one, history(3, '1 0/100', '2 0/200')), '1 at 0/100');
  assert.equal(parts(history(2, '1 0/100'), history(3, '1 0/100', '2 0/200')), '2 at 0/200');
  assert.equal(parts(history(2, '1 0/100'), history(5, '1 0/100', '2 0/200')), '2 at 0/200');
});

test('two that left one timeline part where the first of them left it', () => {
  assert.equal(parts(history(2, '1 0/100'), history(3, '1 0/80')), '1 at 0/80');
  assert.equal(parts(history(2, '1 0/100'), history(3, '1 0/180')), '1 at 0/100');
  assert.equal(parts(history(2, '1 0/100'), history(3, '1 0/100')), '1 at 0/100');
  const left = history(3, '1 0/100', '2 0/200');
  assert.equal(parts(left, history(4, '1 0/100', '2 0/150')), '2 at 0/150');
});

test('two timelines of one number part where the first of the two began', () => {
  assert.equal(parts(history(2, '1 0/100'), history(2, '1 0/80')), '1 at 0/80');
  const left = history(4, '1 0/100', '2 0/200');
  assert.equal(parts(left, history(4, '1 0/100', '3 0/200')), '1 at 0/100');
  assert.equal(parts(left, history(4, '1 0/100', '2 0/300')), '2 at 0/200');
});

test('a recovery target below the beginning of a timeline leaves nothing of it', () => {
  const wentBack = history(3, '1 0/100', '2 0/50');
  assert.equal(parts(wentBack, one), '1 at 0/50');
  assert.equal(parts(wentBack, history(2, '1 0/100')), '1 at 0/50');
  assert.equal(parts(wentBack, history(3, '1 0/80', '2 0/90')), '1 at 0/50');
  assert.equal(parts(wentBack, history(3, '1 0/100', '2 0/50')), 'never');
});

test('a timeline in which nothing was written is passed over', () => {
  const twice = history(3, '1 0/100', '2 0/100');
  assert.equal(parts(twice, history(2, '1 0/100')), '1 at 0/100');
  assert.equal(parts(twice, history(4, '1 0/100', '2 0/120')), '1 at 0/100');
});

test('histories without a common beginning have nothing in common', () => {
  assert.equal(parts(rootHistory(timelineId(5)), history(5, '1 0/100')), 'none at 0/0');
});

test('a number is contested if the two timelines that have it began elsewhere', () => {
  const contested = (a: TimelineHistory, b: TimelineHistory): number | undefined => {
    const number = contestedTimeline(a, b);
    assert.equal(contestedTimeline(b, a), number);
    return number;
  };
  assert.equal(contested(one, one), undefined);
  assert.equal(contested(one, history(2, '1 0/100')), undefined);
  assert.equal(contested(history(2, '1 0/100'), history(3, '1 0/80')), undefined);
  assert.equal(contested(history(2, '1 0/100'), history(2, '1 0/80')), 2);
  assert.equal(contested(history(2, '1 0/100'), history(3, '1 0/80', '2 0/90')), 2);
  const left = history(3, '1 0/100', '2 0/200');
  assert.equal(contested(left, history(4, '1 0/80', '2 0/90')), 2);
  assert.equal(contested(left, history(3, '1 0/100', '2 0/150')), 3);
  assert.equal(contested(left, rootHistory(timelineId(3))), undefined);
});
