/**
 * The walker with its fast path in WebAssembly against its twin without: whatever the WAL is, how
 * it is cut and what is wrong with it, both must say the same, after each chunk.
 */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import type { RecordToBuild } from '../../test/harness/wal-builder.ts';
import { readWalFixtures } from '../../test/harness/wal-fixtures.ts';
import { CLUSTER, MB, START, made } from '../../test/harness/wal-walks.ts';
import { walFormatByMajor } from './formats.ts';
import { advance, distance, parseLsn, type Lsn } from './lsn.ts';
import { WalCorruption, WalWalker, type WalWalkerOptions } from './walker.ts';

const FIXTURES = readWalFixtures();

/** All that a walker tells. */
function told(walker: WalWalker) {
  const { received, proven, provenRecordStart, openRecord, lastCheckpoint } = walker;
  const { timeline, systemIdentifier, format } = walker;
  const positions = { received, proven, provenRecordStart, openRecord, lastCheckpoint };
  return { ...positions, timeline, systemIdentifier, major: format?.major };
}

function push(walker: WalWalker, chunk: Uint8Array): { message: string; lsn: Lsn } | undefined {
  try {
    walker.push(chunk);
    return undefined;
  } catch (error) {
    if (!(error instanceof WalCorruption)) throw error;
    return { message: error.message, lsn: error.lsn };
  }
}

/** Pushes `wal` in chunks of these sizes, again and again, to both; gives what they told last. */
function walkBoth(wal: Uint8Array, chunkSizes: readonly number[], options: WalWalkerOptions) {
  const inBulk = new WalWalker(options);
  const twin = new WalWalker({ ...options, inBulk: false });
  for (let at = 0, i = 0; at < wal.length; i++) {
    const chunk = wal.subarray(at, at + (chunkSizes[i % chunkSizes.length] as number));
    const refusal = push(twin, chunk);
    assert.deepEqual(push(inBulk, chunk), refusal);
    assert.deepEqual(told(inBulk), told(twin));
    if (refusal) return { ...told(twin), refusal };
    at += chunk.length;
  }
  return { ...told(twin), refusal: undefined };
}

function flip(wal: Buffer, flips: readonly (readonly [at: number, bit: number])[]): Buffer {
  const broken = Buffer.from(wal);
  for (const [at, bit] of flips) {
    const place = at % broken.length;
    broken[place] = (broken[place] as number) ^ (1 << bit);
  }
  return broken;
}

const chunkSizes = fc.array(
  fc.oneof(
    fc.integer({ min: 1, max: 100 }),
    fc.integer({ min: 1, max: 30_000 }),
    fc.constantFrom(8192, 131_072, 600_000),
  ),
  { minLength: 1, maxLength: 8 },
);

/** A place anywhere, or in or near a page's header, and one of its bits. */
const flips = fc.array(
  fc.tuple(
    fc.oneof(
      fc.nat(),
      fc.tuple(fc.nat(40), fc.nat(79)).map(([page, offset]) => page * 8192 + offset),
    ),
    fc.nat(7),
  ),
  { maxLength: 2 },
);

const body = fc.oneof(
  { weight: 8, arbitrary: fc.integer({ min: 0, max: 130 }) },
  { weight: 2, arbitrary: fc.integer({ min: 0, max: 9000 }) },
  { weight: 1, arbitrary: fc.integer({ min: 8100, max: 40_000 }) },
);
const record: fc.Arbitrary<RecordToBuild> = fc.oneof(
  { weight: 200, arbitrary: fc.record({ bodyBytes: body }) },
  {
    weight: 50,
    arbitrary: fc.record({
      bodyBytes: body,
      resourceManager: fc.constantFrom(0, 1, 21),
      info: fc.integer({ min: 0, max: 255 }).filter((info) => (info & 0xf0) !== 0x40),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      checkpoint: fc.record({ redo: fc.constant(START), timeline: fc.integer({ min: 1, max: 3 }) }),
    }),
  },
  { weight: 1, arbitrary: fc.record({ resourceManager: fc.constantFrom(22, 31, 128) }) },
  { weight: 1, arbitrary: fc.record({ timeline: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 1, arbitrary: fc.constant({ switchSegment: true }) },
  { weight: 1, arbitrary: fc.constant({ bodyBytes: 20_000, aborted: true }) },
);

const wals = fc.record({
  records: fc.array(record, { minLength: 1, maxLength: 150 }),
  major: fc.constantFrom(13, 14, 15, 16, 17, 18, 19),
  start: fc.constantFrom(START, parseLsn('1/FFF00000')),
  continuationBytes: fc.option(fc.integer({ min: 1, max: 20_000 }), { nil: undefined }),
});

describe('bulk proof of WAL', () => {
  it('proves and refuses made WAL as the walker does without it', () => {
    fc.assert(
      fc.property(wals, flips, chunkSizes, (built, broken, sizes) => {
        const { continuationBytes, ...options } = built;
        const head = continuationBytes === undefined ? {} : { continuationBytes };
        const { wal } = made(built.records, { ...options, ...head });
        const walk = { segmentBytes: MB, start: built.start, startsAt: 'segment' } as const;
        walkBoth(flip(wal, broken), sizes, walk);
      }),
      { numRuns: 300 },
    );
  });

  for (const { name, wal, start, end, segmentBytes } of FIXTURES) {
    it(`proves and refuses the WAL of ${name} as the walker does without it`, () => {
      const provable = wal.subarray(0, distance(start, end));
      const walk = { segmentBytes, start, startsAt: 'segment' } as const;
      assert.equal(walkBoth(provable, [100_000], walk).proven, end);
      // Small records are at the head; what comes later is mostly more of the same.
      const part = provable.subarray(0, 200_000);
      fc.assert(
        fc.property(flips, chunkSizes, (broken, sizes) => {
          walkBoth(flip(part, broken), sizes, walk);
        }),
        { numRuns: 40 },
      );
    });
  }

  it('leaves a segment to the walker that begins with a short header', () => {
    const { wal } = made(Array.from({ length: 130 }, () => ({ bodyBytes: 8140 })));
    const walk = { segmentBytes: MB, start: START, startsAt: 'segment' } as const;
    assert.equal(walkBoth(wal, [100_000], walk).refusal, undefined);
    const short = flip(wal, [[MB + 2, 1]]);
    const { refusal } = walkBoth(short, [100_000], walk);
    assert.match(refusal?.message ?? '', /^invalid info bits 0001 in WAL segment /);
  });

  it('begins at any record as the walker does without it', () => {
    const records = Array.from({ length: 60 }, (_, i) => ({ bodyBytes: (i * 131) % 1000 }));
    const built = made(records);
    const format = walFormatByMajor(16);
    fc.assert(
      fc.property(fc.nat(58), fc.boolean(), chunkSizes, (index, isKnown, sizes) => {
        const [previous, first] = built.records.slice(index, index + 2);
        assert.ok(previous && first);
        const rest = built.wal.subarray(distance(START, first.start));
        const known = isKnown ? { previous: previous.start, format } : {};
        const walk = {
          segmentBytes: MB,
          start: first.start,
          startsAt: 'record',
          ...known,
        } as const;
        assert.equal(walkBoth(rest, sizes, walk).proven, built.records.at(-1)?.end);
      }),
      { numRuns: 60 },
    );
  });

  it('keeps walks apart that take turns', () => {
    const one = made([{ bodyBytes: 30_000 }, {}, { bodyBytes: 9000 }, {}], { major: 18 });
    const other = made(
      Array.from({ length: 700 }, () => ({ bodyBytes: 50 })),
      { start: parseLsn('7/F00000'), major: 13, timeline: 9 },
    );
    const walkers = [one, other].map(({ wal, records }) => {
      const start = advance(records[0]?.start as Lsn, 0);
      const segment = (start - (start % BigInt(MB))) as Lsn;
      const options = { segmentBytes: MB, start: segment, startsAt: 'segment' } as const;
      return { wal, end: records.at(-1)?.end, walker: new WalWalker(options) };
    });
    for (let at = 0; at < 60_000; at += 777) {
      for (const { wal, walker } of walkers) walker.push(wal.subarray(at, at + 777));
    }
    for (const { end, walker } of walkers) {
      assert.equal(walker.proven, end);
      assert.equal(walker.systemIdentifier, CLUSTER);
    }
  });

  it('proves a chunk that is longer than its memory', () => {
    const { wal, records } = made([{ bodyBytes: 300_000 }, {}, { bodyBytes: 500_000 }, {}]);
    const walk = { segmentBytes: MB, start: START, startsAt: 'segment' } as const;
    assert.equal(walkBoth(wal, [wal.length], walk).proven, records.at(-1)?.end);
  });
});
