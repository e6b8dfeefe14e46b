/** The figures beside the bar of a base backup. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeProgress, formatSeconds } from './backup-progress.ts';

const MB = 1024 * 1024;

test('progress is told in bytes, rate and remaining time', () => {
  const figures = { doneBytes: 50 * MB, totalBytes: 200 * MB, elapsedMs: 1000 };
  assert.equal(describeProgress(figures), '50 MB of 200 MB, 50 MB/s, 3 s left');
  assert.equal(describeProgress({ ...figures, elapsedMs: 0 }), '50 MB of 200 MB');
  assert.equal(describeProgress({ ...figures, doneBytes: 0 }), '0 bytes of 200 MB');
});

test('remaining time is told in the two largest units', () => {
  assert.deepEqual([59, 200, 7500].map(formatSeconds), ['59 s', '3 min 20 s', '2 h 5 min']);
});
