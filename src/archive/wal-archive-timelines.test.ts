/** Timelines that a store finds in an archive in memory: followed, left alone, taken in part. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MemoryArchive, withArchive } from '../../test/harness/memory-archive.ts';
import { StoreUnderTest, WAL, readAll } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import type { RecordToBuild } from '../../test/harness/wal-builder.ts';
import { isSegmentName } from '../wal/segment.ts';
import { type Lsn, advance, distance, formatLsn } from '../wal/lsn.ts';

/** Timeline 1 goes on; timeline 2 forks off after its second record. */
const COMMON: RecordToBuild[] = [{ bodyBytes: 1_200_000 }, { bodyBytes: 300_000 }];
const ONE = made([...COMMON, { bodyBytes: 90_000 }, { bodyBytes: 1_000_000 }]);
const TWO = made([...COMMON, { bodyBytes: 500, timeline: 2 }, { bodyBytes: 1_200_000 }]);
const FORK = endOf(ONE, 1);
const HISTORY = `1\t${formatLsn(FORK)}\tno recovery target specified\n`;
const SWITCH_SEGMENT = '000000020000000000000002';

test('a new timeline is found, followed and kept, with the segment it began in', async (t) => {
  const { archive, restore, node, histories, log } = await withArchive(t);
  archive.putWal(1, ONE.wal.subarray(0, MB));
  archive.putHistory(2, HISTORY);
  archive.putWal(2, TWO.wal, FORK);
  let branched = 0;
  node.store.branched.listen(() => {
    branched += 1;
  });
  await restore();
  assert.equal(branched, 1);
  assert.equal(node.store.timeline, 2);
  assert.equal(node.store.received, advance(START, TWO.wal.length));
  assert.ok((await readAll(node.store)).equals(TWO.wal));
  assert.equal((await histories.read(node.store.timeline))?.toString(), HISTORY);
  assert.deepEqual(archive.asked, [
    '00000002.history',
    '00000003.history',
    '000000010000000000000001',
    SWITCH_SEGMENT,
    '000000020000000000000003',
  ]);
  assert.deepEqual(
    log.map(({ level, message }) => [level, message]),
    [
      ['log', 'new target timeline is 2'],
      ['log', 'restored log file "000000010000000000000001" from archive'],
      ['log', `restored log file "${SWITCH_SEGMENT}" from archive`],
      ['log', 'restored log file "00000002.history" from archive'],
      ['log', `timeline 1 has ended: going on with timeline 2 at ${formatLsn(FORK)}`],
      ['log', 'restored log file "000000020000000000000003" from archive'],
    ],
  );

  // The old timeline's name for the switch segment has what is common to both.
  const names = (await node.disk.list(WAL)).filter(isSegmentName).sort();
  assert.deepEqual(names, [
    '000000010000000000000001',
    '000000010000000000000002',
    SWITCH_SEGMENT,
    '000000020000000000000003',
  ]);
  await node.stop();
  const next = await StoreUnderTest.open(node.disk);
  assert.ok((await readAll(next.store)).equals(TWO.wal));
  await next.stop();
});

test('of a timeline that has ended no more is taken, and the next waits for its WAL', async (t) => {
  const { archive, restore, node, histories } = await withArchive(t);
  archive.putWal(1, ONE.wal);
  archive.putHistory(2, HISTORY);
  const { end } = await restore();
  assert.equal(end.reason, `the archive has no ${SWITCH_SEGMENT}`);
  assert.equal(node.store.timeline, 1);
  assert.equal(node.store.received, FORK);
  // Nor is anybody told of it, least of all an attached server: its WAL may never come.
  await assertKept(histories, archive, []);

  archive.putWal(2, TWO.wal, FORK);
  await restore();
  assert.equal(node.store.timeline, 2);
  assert.ok((await readAll(node.store)).equals(TWO.wal));
});

test('WAL that is corrupt where a timeline begins leads nobody there', async (t) => {
  const { archive, restore, node, log } = await withArchive(t);
  archive.putWal(1, ONE.wal);
  archive.putHistory(2, HISTORY);
  const corrupt = Buffer.from(TWO.wal);
  corrupt.writeUInt8(1, distance(START, FORK) + 30);
  archive.putWal(2, corrupt, FORK);
  await restore();
  assert.equal(node.store.timeline, 1);
  assert.equal(node.store.received, FORK);
  assert.equal(log.at(-1)?.level, 'warning');
  archive.putWal(2, TWO.wal, FORK);
  await restore();
  assert.ok((await readAll(node.store)).equals(TWO.wal));
});

test('several switches in one segment are followed one after the other', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  const records: RecordToBuild[] = [1, 1, 2, 2, 3, 3].map((timeline) => ({
    bodyBytes: 5_000,
    timeline,
  }));
  const three = made(records);
  const [first, second] = [endOf(three, 1), endOf(three, 3)];
  archive.putHistory(2, `1\t${formatLsn(first)}\tfirst\n`);
  archive.putHistory(3, `1\t${formatLsn(first)}\tfirst\n\n2\t${formatLsn(second)}\tsecond\n`);
  archive.putWal(3, three.wal);
  await restore();
  assert.equal(node.store.timeline, 3);
  assert.deepEqual(
    node.store.history.entries.map(({ switchPoint }) => switchPoint),
    [first, second],
  );
  assert.ok((await readAll(node.store)).equals(three.wal));
});

test('an unfinished record that the new timeline goes without is dropped', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  await node.appendDurably(ONE.wal, advance(endOf(ONE, 2), 500_000));
  const [fork, history] = [endOf(ONE, 2), `1\t${formatLsn(endOf(ONE, 2))}\tfailover\n`];
  assert.ok(node.store.received > fork && node.store.proven === fork);
  const two = made([...COMMON, { bodyBytes: 90_000 }, { bodyBytes: 500, timeline: 2 }]);
  archive.putHistory(2, history);
  archive.putWal(2, two.wal, fork);
  await restore();
  assert.equal(node.store.timeline, 2);
  assert.ok((await readAll(node.store)).equals(two.wal));
});

test('so is one whose first part stays, as the switch was at a page boundary', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  const two = made([
    { bodyBytes: 40 },
    { bodyBytes: 20_000, aborted: true },
    { bodyBytes: 500, timeline: 2 },
    { bodyBytes: 20_000 },
  ]);
  const fork = endOf(two, 1);
  assert.equal(fork % 8192n, 0n);
  const one = made([{ bodyBytes: 40 }, { bodyBytes: 20_000 }]);
  await node.appendDurably(one.wal, advance(fork, 3_000));
  archive.putHistory(2, `1\t${formatLsn(fork)}\tfailover\n`);
  archive.putWal(2, two.wal);
  await restore();
  assert.equal(node.store.timeline, 2);
  assert.ok((await readAll(node.store)).equals(two.wal));
});

test('a timeline may begin with a segment', async (t) => {
  const { archive, restore, node } = await withArchive(t);
  const common = [{ bodyBytes: 40 }, { switchSegment: true }];
  const two = made([...common, { bodyBytes: 500, timeline: 2 }]);
  const fork = advance(START, MB);
  archive.putWal(1, made([...common, { bodyBytes: 700 }]).wal);
  archive.putHistory(2, `1\t${formatLsn(fork)}\tfailover\n`);
  archive.putWal(2, two.wal, fork);
  await restore();
  assert.equal(node.store.timeline, 2);
  assert.ok((await readAll(node.store)).equals(two.wal));
});

const NOT_FOLLOWED: [why: string, history: string, message: string, detail: string][] = [
  [
    'forked off before what is here',
    HISTORY,
    'new timeline 2 forked off current database system timeline 1 before current recovery point ' +
      formatLsn(endOf(ONE, 2)),
    `It forked off at ${formatLsn(FORK)}, as "00000002.history" of the archive says. ` +
      'The node stays on timeline 1.',
  ],
  [
    'is no child of its own',
    '',
    'new timeline 2 is not a child of database system timeline 1',
    'The history in "00000002.history" of the archive has nothing in common with this ' +
      "node's. The node stays on timeline 1.",
  ],
];

for (const [why, history, message, detail] of NOT_FOLLOWED) {
  test(`a timeline that ${why} is not followed, nor kept, and told of once`, async (t) => {
    const { archive, restore, node, histories, log } = await withArchive(t);
    await node.appendDurably(ONE.wal, endOf(ONE, 2));
    archive.putHistory(2, history);
    archive.putWal(2, TWO.wal, FORK);
    archive.putWal(1, ONE.wal);
    await restore();
    await restore();
    const warnings = log.filter(({ level }) => level !== 'log');
    assert.deepEqual(
      warnings.map((entry) => [entry.level, entry.message, entry.detail]),
      [['warning', message, detail]],
    );
    assert.equal(node.store.timeline, 1);
    assert.ok((await readAll(node.store)).equals(ONE.wal));
    await assertKept(histories, archive, []);
  });
}

test('when the newest timeline is no child, the newest child is followed', async (t) => {
  const { archive, restore, node, histories } = await withArchive(t);
  await node.appendDurably(ONE.wal, endOf(ONE, 0));
  archive.putHistory(2, `1\t${formatLsn(advance(START, 8192))}\ta restored backup\n`);
  archive.putHistory(3, HISTORY);
  archive.putHistory(4, `1\t${formatLsn(advance(START, 8192))}\tanother\n`);
  const three = made([...COMMON, { bodyBytes: 500, timeline: 3 }]);
  archive.putWal(3, three.wal, FORK);
  await restore();
  assert.equal(node.store.timeline, 3);
  assert.ok((await readAll(node.store)).equals(three.wal));
  // A standby below asks for all up to its own; what comes after is nobody's yet.
  await assertKept(histories, archive, [2, 3]);
});

test('a history file that is none is refused', async (t) => {
  const { archive, restore } = await withArchive(t);
  archive.putHistory(2, 'no history\n');
  await assert.rejects(restore(), { sqlstate: 'XX001' });
  archive.putHistory(2, `#${'x'.repeat(1_100_000)}`);
  await assert.rejects(restore(), {
    message: 'archive file "00000002.history" has more than 1048576 bytes',
  });
});

function endOf({ records }: { records: readonly { end: Lsn }[] }, index: number): Lsn {
  return (records[index] as { end: Lsn }).end;
}

async function assertKept(
  histories: { read(timeline: number): Promise<Buffer | undefined> },
  { files }: MemoryArchive,
  timelines: number[],
): Promise<void> {
  for (const number of [2, 3, 4]) {
    const expected = timelines.includes(number) ? files.get(`0000000${number}.history`) : undefined;
    assert.deepEqual(await histories.read(number), expected);
  }
}
