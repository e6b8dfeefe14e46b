/** The walker on made WAL: its positions in the cases that a real server rarely gives. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { CLUSTER, MB, START, made, refuse, walk, walkerAt } from '../../test/harness/wal-walks.ts';
import { walFormatByMajor } from './formats.ts';
import { advance, parseLsn, type Lsn } from './lsn.ts';

describe('WAL walker', () => {
  it('tells its positions at each byte of a record', () => {
    const { wal, records } = made([{ bodyBytes: 5 }, { bodyBytes: 40 }]);
    const walker = walkerAt(START);
    assert.equal(walker.received, START);
    assert.equal(walker.proven, START);
    const [first, second] = records.map(({ start, end }) => ({ start, end }));
    assert.ok(first && second);
    for (let at = 0; at < wal.length; at++) {
      walker.push(wal.subarray(at, at + 1));
      const received = advance(START, at + 1);
      assert.equal(walker.received, received);
      const isFirst: boolean = received < first.end;
      assert.equal(walker.proven, isFirst ? START : received < second.end ? first.end : second.end);
      const open: { start: Lsn; end: Lsn } = isFirst ? first : second;
      const gathered: bigint = received - open.start;
      const lengthBytes: number | undefined = gathered < 4n ? undefined : isFirst ? 29 : 64;
      const isOpen: boolean = gathered > 0n && received < second.end;
      assert.deepEqual(walker.openRecord, isOpen ? { start: open.start, lengthBytes } : undefined);
    }
    assert.equal(walker.provenRecordStart, second.start);
    assert.equal(walker.timeline, 1);
    assert.equal(walker.systemIdentifier, CLUSTER);
    assert.equal(walker.format, walFormatByMajor(16));
  });

  it('proves records whose header is split over pages, at every split', () => {
    for (let left = 8; left < 32; left += 8) {
      const filler = 8192 - 40 - 24 - left;
      const { wal, records } = made([{ bodyBytes: filler }, { bodyBytes: 100 }, { bodyBytes: 9 }]);
      const walker = walk(wal);
      assert.equal(walker.provenRecordStart, records[2]?.start);
      assert.equal(walker.proven, records[2]?.end);
    }
  });

  it('rests at the page boundary after a record that fills its page', () => {
    const { wal, records } = made([{ bodyBytes: 8192 - 40 - 24 }, { bodyBytes: 8 }]);
    const boundary = advance(START, 8192);
    assert.equal(walk(wal.subarray(0, 8192)).proven, boundary);
    assert.equal(walk(wal.subarray(0, 8192 + 24)).proven, boundary);
    assert.equal(walk(wal.subarray(0, 8192 + 24)).openRecord, undefined);
    assert.equal(records[1]?.start, advance(boundary, 24));
    assert.equal(walk(wal).proven, records[1]?.end);
  });

  it('proves a record over several segments without keeping it', () => {
    const { wal, records } = made([{ bodyBytes: 3 * MB + 5 }, {}]);
    const walker = walkerAt(START);
    walker.push(wal.subarray(0, 2 * MB));
    const length = 3 * MB + 5 + 24;
    assert.deepEqual(walker.openRecord, { start: records[0]?.start, lengthBytes: length });
    assert.equal(walker.proven, START);
    walker.push(wal.subarray(2 * MB));
    assert.equal(walker.proven, records[1]?.end);
  });

  it('skips what follows a switch record, whatever it holds, to the segment end', () => {
    const { wal, records } = made([{}, { switchSegment: true }, { bodyBytes: 16 }]);
    const [, change, next] = records;
    assert.ok(change && next);
    assert.equal(change.end, parseLsn('0/200000'));
    const recordEnd = advance(change.start, 24);
    wal.fill(0xa5, Number(recordEnd - START), MB);
    assert.equal(walk(wal.subarray(0, MB - 1)).proven, recordEnd);
    assert.equal(walk(wal.subarray(0, MB)).proven, change.end);
    assert.equal(walk(wal).provenRecordStart, next.start);
  });

  it('goes on at once after a switch record that ends with its segment', () => {
    const { wal, records } = made([
      { bodyBytes: MB - 128 * 24 - 16 - 48 },
      { switchSegment: true },
      {},
    ]);
    assert.equal(records[1]?.end, parseLsn('0/200000'));
    assert.equal(records[1].end - records[1].start, 24n);
    assert.equal(walk(wal).provenRecordStart, records[2]?.start);
  });

  for (const major of [14, 18, 19]) {
    it(`drops a record whose rest was overwritten, as ${major} flags it`, () => {
      const { wal, records } = made([{}, { bodyBytes: 20_000, aborted: true }, {}, {}], { major });
      const [first, aborted, overwrite, last] = records;
      assert.ok(first && aborted && overwrite && last);
      const broken = walk(wal.subarray(0, 8192));
      assert.deepEqual(broken.openRecord, { start: aborted.start, lengthBytes: 20_024 });
      assert.equal(broken.proven, first.end);
      assert.equal(walk(wal.subarray(0, 8192 + 24)).openRecord, undefined);
      assert.equal(walk(wal).proven, last.end);
    });
  }

  it('begins after a continuation at its head, or where that was overwritten', () => {
    for (const continuationBytes of [1, 8, 8152, 8153, 30_001, 2 * MB]) {
      const { wal, records } = made([{}, {}], { continuationBytes });
      const [first, second] = records;
      assert.ok(first && second);
      const walker = walkerAt(START);
      walker.push(wal.subarray(0, 41));
      assert.equal(walker.proven, START);
      walker.push(wal.subarray(41));
      assert.equal(walker.provenRecordStart, second.start);
      const unproven = walkerAt(START);
      unproven.push(wal.subarray(0, Number(first.end - START) - 1));
      const isAtPageStart = first.start % 8192n === 24n;
      assert.equal(unproven.proven, isAtPageStart ? first.start - 24n : first.start);
    }
    const { wal, records } = made([{ bodyBytes: 2 * MB, aborted: true }, {}]);
    const head = walkerAt(START);
    head.push(wal);
    assert.equal(head.provenRecordStart, records[1]?.start);
  });

  it('begins at a known record, in a page or at its start', () => {
    const { wal, records } = made([{}, { bodyBytes: 8192 - 40 - 64 - 24 }, {}, {}]);
    const [first, second, third, last] = records;
    assert.ok(first && second && third && last);
    assert.equal(second.end, advance(START, 8192));
    for (const start of [first.start, second.start, second.end, last.start]) {
      const rest = wal.subarray(Number(start - START));
      assert.equal(walk(rest, start, { startsAt: 'record' }).provenRecordStart, last.start);
    }
    const rest = wal.subarray(Number(last.start - START));
    const options = { startsAt: 'record' as const, start: last.start };
    assert.equal(walk(rest, last.start, { ...options, previous: third.start }).proven, last.end);
    refuse(
      rest,
      {
        message: 'record with incorrect prev-link 0/102018 at 0/102058',
        lsn: last.start,
        proven: last.start,
      },
      { ...options, previous: first.start },
    );
  });

  it('follows prev links over a multiple of 4 GB', () => {
    const start = parseLsn('1/FFF00000');
    const records = Array.from({ length: 1200 }, () => ({ bodyBytes: 1000 }));
    const built = made(records, { start });
    const walker = walkerAt(start);
    walker.push(built.wal);
    assert.equal(walker.proven, built.records.at(-1)?.end);
    assert.ok(walker.proven > parseLsn('2/0'));
  });

  it('remembers the last checkpoint', () => {
    const one = { redo: parseLsn('0/100028'), timeline: 1 };
    const two = { redo: parseLsn('0/100100'), timeline: 3 };
    const { wal, records } = made([{ checkpoint: one }, {}, { checkpoint: two }, {}]);
    assert.deepEqual(walk(wal.subarray(0, 400)).lastCheckpoint?.redo, two.redo);
    assert.deepEqual(walk(wal).lastCheckpoint, { ...two, start: records[2]?.start });
    assert.equal(walk(wal.subarray(0, 200)).lastCheckpoint?.redo, one.redo);
  });
});
