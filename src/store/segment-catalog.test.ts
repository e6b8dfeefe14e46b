/** The names in pg_wal: what a store begins with, and what may go. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHistoryFile, rootHistory } from '../wal/history.ts';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { oldestStored, removableSegments, segmentStarts } from './segment-catalog.ts';

const MB16 = 16 * 1024 * 1024;
const hex8 = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
const at = (timeline: number, number: number): string =>
  `${hex8(timeline)}${hex8(0)}${hex8(number)}`;
const NO_SEGMENTS = [`${hex8(1)}${hex8(0)}00000100`, `${hex8(0)}${hex8(0)}00000001`];
const OTHER_FILES = [
  ...NO_SEGMENTS,
  '00000002.history',
  'xlogtemp',
  'archive_status',
  `${at(1, 9)}.partial`,
];
const first = { history: rootHistory(timelineId(1)), segmentBytes: MB16 };

test('the segments of one timeline are listed from the oldest on, other files left out', () => {
  const names = [at(1, 12), ...OTHER_FILES, at(1, 2), at(2, 3), at(1, 3)];
  assert.deepEqual(
    segmentStarts(names, first.history, MB16),
    ['0/2000000', '0/3000000', '0/C000000'].map(parseLsn),
  );
  assert.deepEqual(segmentStarts(names, rootHistory(timelineId(3)), MB16), []);
});

test('the store begins with its oldest segment; without any, where WAL goes on', () => {
  const names = [at(1, 3), at(1, 2), at(1, 4), at(2, 1)];
  const received = parseLsn('0/4000100');
  assert.equal(oldestStored(names, { ...first, received }), parseLsn('0/2000000'));
  const start = parseLsn('0/4000000');
  assert.equal(oldestStored(OTHER_FILES, { ...first, received: start }), start);
});

test('a segment is kept in the name of the newest timeline that owns a part of it', () => {
  const history = parseHistoryFile(timelineId(3), '1\t0/3000500\n2\t0/3000900\n');
  const names = [at(1, 2), at(1, 3), at(2, 3), at(3, 3), at(1, 4), at(3, 4), at(1, 5)];
  const stored = { history, segmentBytes: MB16, received: parseLsn('0/4000100') };
  assert.equal(oldestStored(names, stored), parseLsn('0/2000000'));
  assert.deepEqual(
    segmentStarts(names, history, MB16),
    ['0/2000000', '0/3000000', '0/4000000'].map(parseLsn),
  );
  const without = names.filter((name) => name !== at(3, 3));
  assert.throws(() => oldestStored(without, stored), {
    message: `WAL segment ${at(3, 3)} is missing from "pg_wal"`,
  });
});

test('WAL that ends at a segment boundary needs no segment after it', () => {
  const received = parseLsn('0/4000000');
  assert.equal(oldestStored([at(1, 2), at(1, 3)], { ...first, received }), parseLsn('0/2000000'));
});

test('a gap is refused by the name of its first segment', () => {
  for (const { names, missing } of [
    { names: [at(1, 2), at(1, 4), at(1, 5)], missing: at(1, 3) },
    { names: [at(1, 2), at(1, 3)], missing: at(1, 4) },
  ]) {
    assert.throws(() => oldestStored(names, { ...first, received: parseLsn('0/4000100') }), {
      sqlstate: '58P01',
      message: `WAL segment ${missing} is missing from "pg_wal"`,
    });
  }
});

test('segments before a position go, of all timelines, the oldest first', () => {
  const names = [at(2, 3), at(1, 4), ...OTHER_FILES, at(1, 2), at(1, 3), at(2, 4)];
  assert.deepEqual(removableSegments(names, parseLsn('0/4000000'), MB16), [
    at(1, 2),
    at(2, 3),
    at(1, 3),
  ]);
  assert.deepEqual(removableSegments(names, parseLsn('0/2000000'), MB16), []);
});
