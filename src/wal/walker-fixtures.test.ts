/** The walker against WAL of real servers, 13 to 18. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { readWalFixtures, type WalFixture } from '../../test/harness/wal-fixtures.ts';
import { advance, distance, parseLsn, type Lsn } from './lsn.ts';
import { WalCorruption, WalWalker } from './walker.ts';

const FIXTURES = readWalFixtures();

function walkerOf({ segmentBytes, start }: WalFixture): WalWalker {
  return new WalWalker({ segmentBytes, start, startsAt: 'segment' });
}

/** The WAL of a fixture up to the end of its last record. */
function provableWal({ wal, start, end }: WalFixture): Buffer {
  return wal.subarray(0, distance(start, end));
}

function fixture(name: string): WalFixture {
  const found = FIXTURES.find((candidate) => candidate.name === name);
  assert.ok(found, `a fixture called ${name}`);
  return found;
}

/** All that a walker tells after `walk`, in a form that can be compared. */
function state(walker: WalWalker) {
  const { received, proven, provenRecordStart, openRecord, lastCheckpoint, timeline } = walker;
  const { systemIdentifier, format } = walker;
  const major = format?.major;
  return {
    received,
    proven,
    provenRecordStart,
    openRecord,
    lastCheckpoint,
    timeline,
    systemIdentifier,
    major,
  };
}

function pushInChunks(walker: WalWalker, wal: Uint8Array, chunkBytes: number): Lsn[] {
  const starts: Lsn[] = [];
  for (let at = 0; at < wal.length; at += chunkBytes) {
    walker.push(wal.subarray(at, at + chunkBytes));
    const start = walker.provenRecordStart;
    if (start !== undefined && start !== starts.at(-1)) starts.push(start);
  }
  return starts;
}

describe('WAL walker on the WAL of real servers', () => {
  for (const real of FIXTURES) {
    it(`proves the WAL of ${real.name} up to its last record`, () => {
      const walker = walkerOf(real);
      walker.push(provableWal(real));
      assert.deepEqual(state(walker), {
        received: real.end,
        proven: real.end,
        provenRecordStart: real.lastRecord,
        openRecord: undefined,
        lastCheckpoint: { start: real.lastRecord, redo: real.lastRecord, timeline: 1 },
        timeline: 1,
        systemIdentifier: real.systemIdentifier,
        major: real.major,
      });
    });

    it(`finds each record of ${real.name} when the WAL comes in eights`, () => {
      const walker = walkerOf(real);
      const starts = pushInChunks(walker, provableWal(real), 8);
      assert.equal(starts.length, real.records);
      assert.equal(starts[0], real.firstRecord);
      assert.equal(starts.at(-1), real.lastRecord);
      assert.equal(walker.proven, real.end);
    });

    it(`says that the WAL of ${real.name} ends where zeros follow`, () => {
      const walker = walkerOf(real);
      const message = /^invalid record length at .*: expected at least 24, got 0$/;
      assert.throws(() => walker.push(real.wal), { sqlstate: 'XX001', message, lsn: real.end });
      assert.equal(walker.proven, real.end);
      assert.equal(walker.provenRecordStart, real.lastRecord);
      assert.equal(walker.received, real.end);
      assert.throws(() => walker.push(real.wal), WalCorruption);
    });
  }

  it('proves the same whatever the chunks are', () => {
    const real = fixture('17');
    const wal = provableWal(real);
    const whole = walkerOf(real);
    whole.push(wal);
    const sizes = fc.array(fc.integer({ min: 1, max: 50_000 }), { minLength: 1, maxLength: 20 });
    fc.assert(
      fc.property(sizes, (chunkBytes) => {
        const walker = walkerOf(real);
        for (let at = 0, i = 0; at < wal.length; i++) {
          const next = at + (chunkBytes[i % chunkBytes.length] as number);
          walker.push(wal.subarray(at, next));
          assert.equal(walker.received, advance(real.start, Math.min(next, wal.length)));
          assert.ok(walker.proven <= walker.received);
          at = next;
        }
        assert.deepEqual(state(walker), state(whole));
      }),
      { numRuns: 25 },
    );
  });

  it('proves the same byte by byte', () => {
    const real = fixture('16-aborted');
    const wal = provableWal(real).subarray(0, 100_000);
    const whole = walkerOf(real);
    whole.push(wal);
    const walker = walkerOf(real);
    pushInChunks(walker, wal, 1);
    assert.deepEqual(state(walker), state(whole));
  });

  it('begins after a continuation over many pages and segments', () => {
    const real = fixture('16-aborted');
    const head = fixture('16');
    const third = advance(head.start, 2 * head.segmentBytes);
    const { segmentBytes } = head;
    const walker = new WalWalker({ segmentBytes, start: third, startsAt: 'segment' });
    walker.push(provableWal(head).subarray(2 * segmentBytes));
    assert.equal(walker.proven, head.end);
    assert.equal(walker.provenRecordStart, head.lastRecord);

    const second = advance(real.start, real.segmentBytes);
    const aborted = new WalWalker({ segmentBytes, start: second, startsAt: 'segment' });
    aborted.push(provableWal(real).subarray(segmentBytes, 4 * segmentBytes));
    assert.equal(aborted.proven, second);
    aborted.push(provableWal(real).subarray(4 * segmentBytes));
    assert.equal(aborted.proven, real.end);
  });

  it('drops the record that a killed server did not finish', () => {
    const real = fixture('16-aborted');
    const overwritten = distance(real.start, parseLsn('0/E00000'));
    const walker = walkerOf(real);
    walker.push(provableWal(real).subarray(0, overwritten));
    const { openRecord, proven } = walker;
    assert.equal(openRecord?.start, proven);
    assert.equal(openRecord?.lengthBytes, 200_000_055);
    walker.push(provableWal(real).subarray(overwritten, overwritten + 88));
    assert.equal(walker.openRecord, undefined);
    assert.equal(walker.provenRecordStart, parseLsn('0/E00028'));
  });

  it('detects any flipped bit, but in what nothing protects', () => {
    const real = fixture('18');
    const wal = provableWal(real);
    const starts = pushInChunks(walkerOf(real), wal, 8);
    const from = distance(real.start, real.firstRecord);
    // Two pages with small records, and the page header between them.
    const position = fc.integer({ min: from, max: 16_383 });
    fc.assert(
      fc.property(position, fc.nat(7), (at, bit) => {
        const broken = Buffer.from(wal.subarray(0, 40_000));
        broken[at] = (broken[at] as number) ^ (1 << bit);
        const isRefused = (error: unknown) =>
          error instanceof WalCorruption && error.lsn <= advance(real.start, at);
        if (isUnprotected(at, bit)) return;
        assert.throws(() => walkerOf(real).push(broken), isRefused);
      }),
      { numRuns: 300 },
    );

    /** Padding of records and page headers, flags of no consequence, a timeline gone up. */
    function isUnprotected(at: number, bit: number): boolean {
      const inPage = at % 8192;
      if (inPage < 24) {
        return (inPage === 2 && bit >= 2) || (inPage >= 4 && inPage < 8) || inPage >= 16;
      }
      const next = starts.findIndex((start) => start > advance(real.start, at));
      const start = distance(real.start, starts[next - 1] as Lsn);
      const crossed = Math.floor(start / 8192) < Math.floor(at / 8192) ? 24 : 0;
      return at >= start + wal.readUInt32LE(start) + crossed;
    }
  });
});
