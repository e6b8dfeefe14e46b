/** How long a link rests after what was read. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RateBucket, drawn, pauseMs, refilled } from './rate-limit.ts';

const bytesPerSecond = 1_000_000;

test('what is read too much is made up for, and what was not read only for a moment', () => {
  for (const [bytes, afterMs, left] of [
    [0, 0, 0],
    [0, 50, 50_000],
    [0, 100, 100_000],
    [0, 60_000, 100_000],
    [-500_000, 100, -400_000],
    [-500_000, 500, 0],
    [100_000, 10, 100_000],
  ] as const) {
    const bucket = refilled({ bytes, atMs: 5 }, { bytesPerSecond, nowMs: 5 + afterMs });
    assert.deepEqual(bucket, { bytes: left, atMs: 5 + afterMs }, `${bytes} after ${afterMs} ms`);
  }
  assert.deepEqual(refilled(undefined, { bytesPerSecond, nowMs: 9 }), { bytes: 0, atMs: 9 });
});

test('the pause is as long as what is owed takes at the rate', () => {
  for (const [bytes, ms] of [
    [0, 0],
    [1, 0],
    [-1, 1],
    [-1000, 1],
    [-1001, 2],
    [-256_000, 256],
  ] as const) {
    assert.equal(pauseMs({ bytes, atMs: 0 }, bytesPerSecond), ms, `${bytes} bytes`);
  }
});

test('over any time no more is read than the rate, one read and a tenth of a second allow', () => {
  for (const readBytes of [1, 4_000, 65_536, 262_144]) {
    let nowMs = 0;
    let bucket: RateBucket | undefined;
    let total = 0;
    while (nowMs < 10_000) {
      bucket = drawn(refilled(bucket, { bytesPerSecond, nowMs }), readBytes);
      total += readBytes;
      // A timer is late, and reading takes time too.
      nowMs += pauseMs(bucket, bytesPerSecond) + (total % 3 === 0 ? 0.7 : 0.1);
      const most = (bytesPerSecond * nowMs) / 1000 + readBytes + bytesPerSecond / 10;
      assert.ok(total <= most, `${total} of ${most} after ${nowMs} ms`);
    }
    if (readBytes > 1000) assert.ok(total >= 0.9 * bytesPerSecond * 10, `${total} bytes in all`);
  }
});
