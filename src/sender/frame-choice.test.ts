/** When WAL is compressed, and how hard. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  COMPRESSIBLE,
  type Compressibility,
  FIRST_PACE,
  type LinkPace,
  afterFrame,
  afterRaw,
  isWorthSending,
  isWorthTrying,
  nextPace,
} from './frame-choice.ts';

const KB = 1024;
const MB = 1024 * KB;

test('what is short is not compressed, nor what does not become smaller by a tenth', () => {
  for (const [walBytes, isTried] of [
    [1, false],
    [511, false],
    [512, true],
    [128 * KB, true],
  ] as const) {
    assert.equal(isWorthTrying(COMPRESSIBLE, walBytes), isTried, `${walBytes} bytes`);
  }
  for (const [walBytes, frameBytes, isSent] of [
    [1100, 1000, true],
    [1099, 1000, false],
    [1000, 1100, false],
    [100_000, 10_000, true],
  ] as const) {
    assert.equal(isWorthSending({ walBytes, frameBytes }), isSent, `${walBytes} to ${frameBytes}`);
  }
});

test('WAL that does not compress is left as it is for a while, each time for longer', () => {
  let known: Compressibility = COMPRESSIBLE;
  const make = (ratio: number): void => {
    known = afterFrame(known, { walBytes: 128 * KB, frameBytes: (128 * KB) / ratio });
  };
  // One poor message says little.
  make(1);
  assert.equal(known.rawBytes, 0);
  for (let i = 0; i < 7; i++) make(1);
  const pauses: number[] = [];
  for (let i = 0; i < 6; i++) {
    pauses.push(known.rawBytes / MB);
    assert.ok(!isWorthTrying(known, 128 * KB));
    while (known.rawBytes > 0) known = afterRaw(known, 128 * KB);
    // One frame is enough to see that it is no better.
    make(1.05);
  }
  assert.deepEqual(pauses, [2, 4, 8, 16, 32, 32]);

  // A frame that is worth it begins all anew.
  while (known.rawBytes > 0) known = afterRaw(known, 100 * KB);
  make(3);
  assert.ok(isWorthTrying(known, 128 * KB));
  assert.equal(known.lastRawBytes, 0);
});

test('some poor messages among good ones change nothing', () => {
  let known: Compressibility = COMPRESSIBLE;
  for (let i = 0; i < 200; i++) {
    const ratio = i % 3 === 0 ? 0.99 : 4;
    known = afterFrame(known, { walBytes: 128 * KB, frameBytes: (128 * KB) / ratio });
    assert.equal(known.rawBytes, 0);
  }
});

test('the level goes up where the link is waited for, down where compressing is', () => {
  const after = (pace: LinkPace, times: { compressMs: number; sendMs: number }): LinkPace => {
    let reached = pace;
    for (let i = 0; i < 100; i++) reached = nextPace(reached, times);
    return reached;
  };
  for (const [from, compressMs, sendMs, level] of [
    [1, 1, 100, 6],
    [1, 1, 1, 1],
    [1, 100, 1, 1],
    [3, 1, 1, 3],
    [6, 100, 1, 1],
    [6, 1, 100, 6],
    [3, 0, 0, 3],
  ] as const) {
    const reached = after({ ...FIRST_PACE, level: from }, { compressMs, sendMs });
    assert.equal(reached.level, level, `${from}, ${compressMs} ms and ${sendMs} ms`);
  }
  // Not by one batch alone.
  assert.equal(nextPace(FIRST_PACE, { compressMs: 0, sendMs: 1000 }).level, 1);
});
