/** Commits counted in WAL that no server wrote. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RecordToBuild, buildWal } from '../../test/harness/wal-builder.ts';
import { CommitCounter, type Commits } from './commit-counter.ts';
import { type Lsn, parseLsn } from './lsn.ts';
import { PAGE_BYTES } from './page.ts';

const SEGMENT_BYTES = 1024 * 1024;
const START = parseLsn('0/100000');

test('commits are counted, with when the first and the last was', () => {
  const commits = count([{}, commit(1000n), { bodyBytes: 5000 }, commit(2000n), commit(3000n), {}]);
  assert.deepEqual(commits, { count: 3, firstUs: 1000n, lastUs: 3000n });
});

test('what commits nothing is not counted', () => {
  const abort = { ...commit(1n), info: 0x20 };
  const prepare = { ...commit(1n), info: 0x10 };
  const heap = { ...commit(1n), resourceManager: 10 };
  assert.deepEqual(count([abort, prepare, heap]), NONE);
});

test('a prepared transaction counts when it is committed, whatever else the record says', () => {
  const records = [
    { ...commit(5n), info: 0x30 },
    { ...commit(6n), info: 0x80 },
  ];
  assert.deepEqual(count(records), { count: 2, firstUs: 5n, lastUs: 6n });
});

test('an origin and a long commit do not hide its time', () => {
  const time = Buffer.alloc(8);
  time.writeBigInt64LE(7n);
  const origin = Buffer.from([253, 1, 0]);
  const long = Buffer.alloc(5, 254);
  const body = Buffer.concat([origin, long, time, Buffer.alloc(20_000)]);
  const commits = count([{ ...commit(1n), body }, commit(9n)]);
  assert.deepEqual(commits, { count: 2, firstUs: 7n, lastUs: 9n });
});

test('records over pages and segments, and a switch of segment, do not hide a commit', () => {
  const many = Array.from({ length: 700 }, (_, i) => [
    { bodyBytes: 1500 + (i % 700) },
    commit(BigInt(i)),
  ]).flat();
  assert.deepEqual(count(many), { count: 700, firstUs: 0n, lastUs: 699n });
  const switched = [commit(1n), { switchSegment: true }, commit(2n)];
  assert.deepEqual(count(switched), { count: 2, firstUs: 1n, lastUs: 2n });
});

test('a record that a crash cut off does not hide the commit that overwrites it', () => {
  const records = [{ bodyBytes: 20_000, aborted: true }, commit(4n)];
  assert.deepEqual(count(records), { count: 1, firstUs: 4n, lastUs: 4n });
});

test('the chunks may be of any number of pages', () => {
  const records = Array.from({ length: 900 }, (_, i) => commit(BigInt(i)));
  for (const pages of [1, 2, 7, 1000]) {
    assert.equal(count(records, { chunkBytes: pages * PAGE_BYTES }).count, 900);
  }
});

test('counting may begin in mid-page, where a record starts', () => {
  const start = (START + 5000n - (5000n % 8n)) as Lsn;
  assert.equal(count([commit(1n), { bodyBytes: 9000 }, commit(2n)], { start }).count, 2);
});

const NONE: Commits = { count: 0, firstUs: undefined, lastUs: undefined };

function commit(timeUs: bigint): RecordToBuild {
  const body = Buffer.alloc(10);
  body.writeUInt8(255, 0);
  body.writeUInt8(8, 1);
  body.writeBigInt64LE(timeUs, 2);
  return { resourceManager: 1, info: 0, body };
}

function count(
  records: readonly RecordToBuild[],
  { start = START, chunkBytes = PAGE_BYTES }: { start?: Lsn; chunkBytes?: number } = {},
): Commits {
  const wal = buildWal({
    segmentBytes: SEGMENT_BYTES,
    start,
    timeline: 1,
    systemIdentifier: 42n,
    records,
  });
  const counter = new CommitCounter({ start, segmentBytes: SEGMENT_BYTES });
  const inPage = Number(start % BigInt(PAGE_BYTES));
  for (let at = 0, end = PAGE_BYTES - inPage; at < wal.length; end += chunkBytes) {
    counter.push(wal.subarray(at, end));
    at = end;
  }
  return counter.commits;
}
