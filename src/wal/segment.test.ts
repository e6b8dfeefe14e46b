/** Segment names against the ones PostgreSQL gives (pg_walfile_name). */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import * as fc from 'fast-check';
import { formatLsn, lsn, parseLsn, timelineId } from './lsn.ts';
import {
  SEGMENT_BYTES_DEFAULT,
  checkSegmentBytes,
  formatSegmentBytes,
  isSegmentName,
  parseSegmentBytes,
  parseSegmentName,
  segmentName,
  segmentStart,
} from './segment.ts';

const MB = 1024 * 1024;
const ONE = timelineId(1);

describe('segment', () => {
  it('names the segment that contains a position, for every segment size', () => {
    const table: [timeline: number, position: string, megabytes: number, name: string][] = [
      [1, '0/1000000', 16, '000000010000000000000001'],
      [1, '0/5000000', 16, '000000010000000000000005'],
      [1, '0/5FFFFFF', 16, '000000010000000000000005'],
      [1, '0/5000000', 1, '000000010000000000000050'],
      [1, '0/FFFFFFFF', 16, '0000000100000000000000FF'],
      [1, '1/0', 16, '000000010000000100000000'],
      [1, '2/C0000000', 1024, '000000010000000200000003'],
      [1, '2/FFF00000', 1, '000000010000000200000FFF'],
      [0xffffffff, 'FFFFFFFF/FFFFFFFF', 16, 'FFFFFFFFFFFFFFFF000000FF'],
    ];
    for (const [timeline, position, megabytes, name] of table) {
      const at = parseLsn(position);
      const bytes = megabytes * MB;
      assert.equal(segmentName(timelineId(timeline), at, bytes), name);
      assert.deepEqual(parseSegmentName(name, bytes), { timeline, start: segmentStart(at, bytes) });
    }
  });

  it('reads back every name it gives', () => {
    const position = fc.bigInt({ min: 0n, max: 0xffff_ffff_ffff_ffffn });
    const exponent = fc.integer({ min: 20, max: 30 });
    fc.assert(
      fc.property(position, exponent, (value, power) => {
        const bytes = 2 ** power;
        const start = segmentStart(lsn(value), bytes);
        const name = segmentName(ONE, lsn(value), bytes);
        assert.ok(isSegmentName(name));
        assert.ok(start <= value && value < start + BigInt(bytes));
        assert.equal(formatLsn(parseSegmentName(name, bytes).start), formatLsn(start));
      }),
    );
  });

  it('refuses a name that no segment of that size has', () => {
    const names = [
      '',
      '00000002.history',
      '000000010000000000000005.partial',
      '00000001000000000000000a',
      '000000000000000000000005',
      '000000010000000000000100',
    ];
    for (const name of names) {
      assert.throws(() => parseSegmentName(name, SEGMENT_BYTES_DEFAULT), {
        sqlstate: '22023',
        message: `invalid WAL file name "${name}"`,
        detail: 'The WAL segment size is 16MB.',
      });
    }
    assert.equal(isSegmentName('00000001000000000000000a'), false);
    assert.equal(isSegmentName('000000010000000000000005\n'), false);
  });

  it('accepts the segment sizes that initdb accepts and no other', () => {
    for (let power = 20; power <= 30; power++) checkSegmentBytes(2 ** power);
    for (const bytes of [0, -1, 1, 2 ** 19, 2 ** 31, 3 * MB, 16 * MB + 1, 1.5, Number.NaN]) {
      assert.throws(() => checkSegmentBytes(bytes), {
        sqlstate: '22023',
        message: `invalid WAL segment size (${bytes} bytes)`,
      });
    }
  });

  it('reads and prints the size as SHOW wal_segment_size does', () => {
    for (const text of ['1MB', '16MB', '512MB', '1GB']) {
      assert.equal(formatSegmentBytes(parseSegmentBytes(text)), text);
    }
    assert.equal(parseSegmentBytes('16MB'), SEGMENT_BYTES_DEFAULT);
    for (const text of ['', '16', '16mb', '3MB', '2GB', '512kB', '-1MB', '16MB ']) {
      assert.throws(() => parseSegmentBytes(text), { sqlstate: '22023' });
    }
  });
});
