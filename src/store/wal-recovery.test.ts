/** Where a start finds the end of proven WAL, wherever it was cut or damaged. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CONTROL_DATA } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { type Lsn, advance, distance, formatLsn, parseLsn } from '../wal/lsn.ts';
import { type ReadWal, findProvenEnd, recoverWalker, walkTo } from './wal-recovery.ts';

const { wal, records } = made([40, 9_000, 300_000, 900_000, 24].map((b) => ({ bodyBytes: b })));
const END = advance(START, wal.length);

/** Segments that hold `content` from START on, zeros after it; notes the least position read. */
function stored(content: Buffer): { read: ReadWal; first: () => Lsn | undefined } {
  const segments = Buffer.alloc(Math.ceil(content.length / MB) * MB);
  content.copy(segments);
  let first: Lsn | undefined;
  const read: ReadWal = (position, into) => {
    if (first === undefined || position < first) first = position;
    return Promise.resolve(segments.copy(into, 0, distance(START, position)));
  };
  return { read, first: () => first };
}

function endOf(index: number): Lsn {
  return (records[index] as { end: Lsn }).end;
}

test('the end of proven WAL is found wherever it was cut', async () => {
  for (const [index, { start, end }] of records.entries()) {
    const before = index === 0 ? START : endOf(index - 1);
    for (const cut of [start, advance(start, 23), advance(start, 24), (end - 1n) as Lsn, end]) {
      const { read } = stored(wal.subarray(0, distance(START, cut)));
      const expected = cut === end ? end : before;
      assert.equal(await findProvenEnd(read, CONTROL_DATA), expected, formatLsn(cut));
    }
  }
});

test('a start is at the end of proven WAL if that is past what was durable for sure', async () => {
  const { read } = stored(wal.subarray(0, distance(START, endOf(2)) + 500));
  const walker = await recoverWalker(read, { ...CONTROL_DATA, flushed: endOf(0) });
  assert.equal(walker.received, endOf(2));
  assert.equal(walker.proven, endOf(2));
});

test('a start is within a record whose first part was known to be durable', async () => {
  const flushed = advance(endOf(2), 400_000);
  const { read } = stored(wal.subarray(0, distance(START, flushed) + 300));
  const walker = await recoverWalker(read, { ...CONTROL_DATA, flushed });
  assert.equal(walker.received, flushed);
  assert.equal(walker.proven, endOf(2));
  walker.push(wal.subarray(distance(START, flushed)));
  assert.equal(walker.proven, END);
});

test('durable WAL that is damaged or gone is an error that says what is lost', async () => {
  const damaged = Buffer.from(wal);
  damaged.writeUInt8(damaged.readUInt8(5_000) ^ 1, 5_000);
  for (const content of [damaged, wal.subarray(0, 5_000)]) {
    const { read } = stored(content);
    await assert.rejects(recoverWalker(read, { ...CONTROL_DATA, flushed: endOf(2) }), {
      sqlstate: 'XX001',
      message: `acknowledged WAL is lost between ${formatLsn(endOf(0))} and ${formatLsn(endOf(2))}`,
    });
  }
  // The segment itself is gone.
  const nothing: ReadWal = () => Promise.resolve(0);
  await assert.rejects(recoverWalker(nothing, { ...CONTROL_DATA, flushed: endOf(2) }), {
    sqlstate: 'XX001',
    detail: `Reading it gave: stored WAL ends at 0/100000, before ${formatLsn(endOf(2))}.`,
  });
});

test('nothing before the record that a walk begins with is read', async () => {
  const { read, first } = stored(wal);
  const from = records[4]?.start as Lsn;
  const walk = { from, startsAt: 'record' } as const;
  const walker = await recoverWalker(read, { ...CONTROL_DATA, walk, flushed: END });
  assert.equal(walker.received, END);
  assert.equal(first(), from);
});

test('a walk to a position that is not stored is an error', async () => {
  const { read } = stored(wal);
  await assert.rejects(walkTo(read, CONTROL_DATA, parseLsn('0/300000')), { sqlstate: 'XX001' });
});

test('WAL of another cluster proves nothing', async () => {
  const { read } = stored(wal);
  assert.equal(await findProvenEnd(read, { ...CONTROL_DATA, systemIdentifier: 1n }), START);
});

test('a start remembers a checkpoint that lies before the last record', async () => {
  const checkpoint = { redo: parseLsn('0/100028'), timeline: 1 };
  const built = made([{}, { checkpoint }, { bodyBytes: 40_000 }, {}]);
  const { read } = stored(built.wal);
  const walker = await recoverWalker(read, CONTROL_DATA);
  assert.equal(walker.proven, advance(START, built.wal.length));
  assert.equal(walker.provenRecordStart, built.records[3]?.start);
  assert.deepEqual(walker.lastCheckpoint, { ...checkpoint, start: built.records[1]?.start });
});
