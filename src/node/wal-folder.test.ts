/** A folder of segments: which are missing between those that are there. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseSegmentName } from '../wal/segment.ts';
import { findGaps } from './wal-folder.ts';

const SEGMENT_BYTES = 16 * 1024 * 1024;

/** The gaps among segments given as "timeline log segment", each 8 digits short of zeros. */
function gapsOf(...names: readonly string[]): string[] {
  const full = (short: string): string =>
    short
      .split(' ')
      .map((part) => part.padStart(8, '0'))
      .join('');
  const segments = names.map((short) => {
    const name = full(short);
    return { name, ...parseSegmentName(name, SEGMENT_BYTES), bytes: SEGMENT_BYTES };
  });
  const folder = { path: '.', segmentBytes: SEGMENT_BYTES, systemIdentifier: 1n, segments };
  return findGaps(folder).map(({ first, last }) => `${first}..${last}`);
}

test('a gap is named by its first and last missing segment', () => {
  assert.deepEqual(gapsOf('1 0 1', '1 0 2', '1 0 3'), []);
  assert.deepEqual(gapsOf('1 0 3', '1 0 5', '1 0 9'), [
    '000000010000000000000004..000000010000000000000004',
    '000000010000000000000006..000000010000000000000008',
  ]);
});

test('there is no gap where the last digits begin anew, nor between timelines', () => {
  assert.deepEqual(gapsOf('1 0 FF', '1 1 0'), []);
  assert.deepEqual(gapsOf('1 0 1', '2 0 5'), []);
});
