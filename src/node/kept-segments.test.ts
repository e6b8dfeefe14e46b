/** Which segments are kept of which timeline, and from where a branch is walked. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatLsn, lsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { segmentName } from '../wal/segment.ts';
import { type KeptSegments, keptSegments, walkToEnd } from './kept-segments.ts';

const MB = 1024 * 1024;

function name(timeline: number, number: number): string {
  return segmentName(timelineId(timeline), lsn(BigInt(number) * BigInt(MB)), MB);
}

function kept(...numbers: number[]): KeptSegments {
  const segments = keptSegments(
    numbers.map((number) => name(1, number)),
    MB,
  );
  return segments.get(timelineId(1)) as KeptSegments;
}

test('segments are counted by timeline, whatever else is in the folder', () => {
  const names = [name(2, 5), name(1, 5), name(1, 4), `${name(1, 6)}.partial`, 'spare.tmp', 'x'];
  // No segment of 1 MB has this name; it is one of another size, or none.
  names.push('000000010000000000001000', '000000000000000000000001', '00000002.history');
  const segments = keptSegments(names, MB);
  assert.deepEqual([...segments.keys()], [1, 2]);
  assert.deepEqual(segments.get(timelineId(1)), {
    first: name(1, 4),
    last: name(1, 5),
    count: 2,
    bytes: 2 * MB,
    gaps: [],
    runStart: parseLsn('0/400000'),
    lastStart: parseLsn('0/500000'),
  });
  assert.equal(segments.get(timelineId(2))?.count, 1);
});

test('what is missing between the first and the last is a gap', () => {
  const { gaps, runStart, count } = kept(1, 3, 4, 8, 9);
  assert.deepEqual(gaps, [
    { first: name(1, 2), last: name(1, 2) },
    { first: name(1, 5), last: name(1, 7) },
  ]);
  assert.equal(formatLsn(runStart), '0/800000');
  assert.equal(count, 5);
});

test('the last segment that a name can stand for is one like any other', () => {
  const last = '00000001FFFFFFFF00000FFF';
  const segments = keptSegments([last], MB).get(timelineId(1)) as KeptSegments;
  assert.equal(segments.count, 1);
  assert.equal(walkToEnd(segments, parseLsn('FFFFFFFF/FFFFFFFF'), MB)?.startsAt, 'segment');
});

for (const [segments, from, expected] of [
  [[4, 5], '0/600000', 'none'],
  [[4, 5], '0/700000', 'none'],
  [[4, 5], '0/5FFFF8', 'record from 0/5FFFF8'],
  [[4, 5], '0/412340', 'record from 0/412340'],
  // A file may say anything: records do not start there.
  [[4, 5], '0/412341', 'segment from 0/400000'],
  // Older segments have been removed, or are missing.
  [[4, 5], '0/100000', 'segment from 0/400000'],
  [[2, 4, 5], '0/212340', 'segment from 0/400000'],
] as const) {
  test(`with segments ${segments.join(', ')}, the WAL past ${from} is walked: ${expected}`, () => {
    const walk = walkToEnd(kept(...segments), parseLsn(from), MB);
    const text = walk === undefined ? 'none' : `${walk.startsAt} from ${formatLsn(walk.from)}`;
    assert.equal(text, expected);
  });
}

test('a long branch is walked from its last segment on', () => {
  const numbers = Array.from({ length: 1030 }, (_, index) => index + 1);
  assert.deepEqual(walkToEnd(kept(...numbers), parseLsn('0/100000'), MB), {
    from: parseLsn('0/40600000'),
    startsAt: 'segment',
  });
});
