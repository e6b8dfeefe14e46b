/**
 * A power cut at each single disk operation while a store goes on from timeline to timeline: a start
 * finds it before or after the switch, never between, with the WAL of one history and no other's.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Keep, TestDisk } from '../../test/harness/test-disk.ts';
import { StoreUnderTest, WAL, newNodeDisk } from '../../test/harness/test-store.ts';
import {
  type BuiltWal,
  type RecordToBuild,
  buildWalWithPositions,
} from '../../test/harness/wal-builder.ts';
import { seededRandom } from '../../test/harness/wal-recutter.ts';
import { CLUSTER, MB, START } from '../../test/harness/wal-walks.ts';
import { writeFileDurably } from '../base/disk.ts';
import {
  type TimelineHistory,
  fileTimelineOf,
  historyFileName,
  parseHistoryFile,
} from '../wal/history.ts';
import { type Lsn, advance, formatLsn, lsn, maxLsn, timelineId } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { segmentName } from '../wal/segment.ts';

const PIECE_BYTES = 250_000;

/** A timeline of the life: what it has from START on, of which the store receives up to `end`. */
interface Line {
  history: TimelineHistory;
  historyFile: string;
  /** Where it is branched off to. */
  at: Lsn;
  wal: Buffer;
  records: BuiltWal['records'];
  end: Lsn;
}

const LIFE = makeLife();

/**
 * Two switches in one segment, the first with a part of a record behind it; one at a segment's
 * boundary; one at a page boundary, where an unfinished record has begun; and one far below what is
 * proven, in an earlier segment.
 */
function makeLife(): Line[] {
  const one = line(undefined, START, [40, 9_000, 300_000, 200_000]);
  one.end = advance(endOf(one, 2), 90_000);
  const two = line(one, endOf(one, 2), [500, 100_000]);
  const three = line(two, two.end, [50_000], { body: Buffer.alloc(0), switchSegment: true });
  assert.equal(three.end % BigInt(MB), 0n);
  const atPageEnd = untilPageEnd(three);
  const four = line(three, three.end, [...atPageEnd, 300_000]);
  four.end = advance(endOf(four, atPageEnd.length - 1), 150_000);
  const five = line(four, endOf(four, atPageEnd.length - 1), [20_000, 1_100_000, 30_000]);
  const six = line(five, endOf(five, 0), [10_000, 400_000]);
  return [one, two, three, four, five, six];
}

function endOf({ records }: Line, index: number): Lsn {
  return records[index]?.end ?? assert.fail();
}

function line(
  parent: Line | undefined,
  at: Lsn,
  sizes: number[],
  ...records: RecordToBuild[]
): Line {
  const timeline = timelineId((parent?.history.timeline ?? 0) + 1);
  const own =
    parent === undefined ? '' : `${parent.history.timeline}\t${formatLsn(at)}\tof a test\n`;
  const historyFile = `${parent?.historyFile ?? ''}${own}`;
  const before = parent?.records.filter(({ end }) => end <= at) ?? [];
  const previous = before.at(-1)?.start;
  const built = buildWalWithPositions({
    segmentBytes: MB,
    start: at,
    timeline,
    systemIdentifier: CLUSTER,
    records: [...sizes.map((bodyBytes) => ({ bodyBytes })), ...records],
    ...(previous === undefined ? {} : { previous }),
  });
  const common = parent?.wal.subarray(0, Number(at - START)) ?? Buffer.alloc(0);
  const wal = Buffer.concat([common, built.wal]);
  return {
    history: parseHistoryFile(timeline, historyFile),
    historyFile,
    at,
    wal,
    records: [...before, ...built.records],
    end: advance(START, wal.length),
  };
}

/** Sizes of records after `parent` of which the last ends where its page does. */
function untilPageEnd(parent: Line): number[] {
  for (let bytes = PAGE_BYTES; bytes < 3 * PAGE_BYTES; bytes += 8) {
    const sizes = [70_000, bytes];
    if (line(parent, parent.end, sizes).end % BigInt(PAGE_BYTES) === 0n) return sizes;
  }
  return assert.fail('some size fills the page');
}

/** What the world outside has been told: on which timeline the node is, and what is flushed. */
interface Told {
  index: number;
  flushed: Lsn;
}

test('a power cut at any operation of a life over six timelines mixes no two of them', async () => {
  const seed = Date.now() % 1_000_000;
  const random = seededRandom(seed);
  const keeps: Keep[] = [() => false, () => true, () => random() < 0.5];
  const whole = await newNodeDisk();
  const before = whole.operations;
  await live(whole, { index: 0, flushed: START });
  const operations = whole.operations - before;
  assert.ok(operations > 150, `${operations} operations`);
  for (let at = 1; at <= operations; at++) {
    const disk = await newNodeDisk();
    const told: Told = { index: 0, flushed: START };
    disk.cutPowerAt = disk.operations + at;
    await live(disk, told).catch(() => {});
    disk.cutPower();
    const where = `seed ${seed}, power cut at operation ${at} of ${operations}`;
    for (const keep of keeps) await checkRestart(disk.afterPowerCut(keep), told, where);
    await liveOn(await checkRestart(disk.afterKill(), told, `${where}, by kill -9`), told, where);
  }
});

/** The life, from the timeline that the store is on to its end; then the store stops. */
async function live(disk: TestDisk, told: Told): Promise<void> {
  const node = await StoreUnderTest.open(disk, { sleep: 'for ever' });
  const { store } = node;
  const first = LIFE.findIndex(({ history }) => history.timeline === store.timeline);
  for (const [index, line] of LIFE.entries()) {
    if (index < first) continue;
    if (index > first) {
      await mirrorHistory(disk, line);
      told.flushed = line.at;
      await store.branch(line, node.ended);
      Object.assign(told, { index, flushed: line.at });
    }
    const stopListening = store.progress.listen(() => {
      told.flushed = maxLsn(told.flushed, store.flushed);
    });
    while (store.received < line.end) {
      const left = Number(line.end - store.received);
      node.append(line.wal, advance(store.received, Math.min(PIECE_BYTES, left)));
      await store.drained(node.ended);
      await store.checkpoint();
    }
    stopListening();
  }
  await assertStored(node);
  await node.stop();
}

/** As the receiver does before it branches. */
async function mirrorHistory(disk: TestDisk, { history, historyFile }: Line): Promise<void> {
  const path = `${WAL}/${historyFileName(history.timeline)}`;
  await writeFileDurably(disk, path, Buffer.from(historyFile));
}

/** Starts what is found and checks it; gives what a power cut leaves of that. */
async function checkRestart(found: TestDisk, told: Told, where: string): Promise<TestDisk> {
  return placed(where, async () => {
    const node = await StoreUnderTest.open(found);
    const { store } = node;
    const now = LIFE.findIndex(({ history }) => history.timeline === store.timeline);
    assert.ok(now === told.index || now === told.index + 1, `on timeline ${now + 1}`);
    const line = LIFE[now] ?? assert.fail();
    assert.deepEqual(store.history, line.history);
    if (now === told.index) {
      const { flushed } = told;
      const lastEnd = line.records.findLast(({ end }) => end <= flushed)?.end ?? START;
      assert.ok(store.received >= lastEnd, `${formatLsn(store.received)} is lost WAL`);
    } else {
      assert.ok(store.received >= line.at && store.served.value >= line.at);
    }
    await assertStored(node);
    found.cutPower();
    await node.stop().catch(() => {});
    return found.afterPowerCut(() => false);
  });
}

/** Lives on to the end: what is served is of one history, and what was left is kept. */
async function liveOn(disk: TestDisk, told: Told, where: string): Promise<void> {
  await placed(where, async () => {
    await live(disk, { ...told });
    await assertBranchesKept(disk);
  });
}

async function placed<T>(where: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    throw new Error(`${where}: ${String(error)}`, { cause: error });
  }
}

/** All that is served is the WAL of the history that the store is on. */
async function assertStored({ store }: StoreUnderTest): Promise<void> {
  const line = LIFE[store.timeline - 1] ?? assert.fail();
  assert.ok(
    store.served.value <= store.received && store.received <= advance(START, line.wal.length),
  );
  for (let at = store.oldest; at < store.served.value; ) {
    const chunk = await store.read(store.history, at, store.served.value);
    const from = Number(at - START);
    const expected = line.wal.subarray(from, from + chunk.bytes.length);
    assert.ok(expected.equals(chunk.bytes), `WAL of ${store.timeline} from ${formatLsn(at)} on`);
    at = advance(at, chunk.bytes.length);
    chunk.release();
  }
}

/** At the end each branch is in its own files, as far as it was received. */
async function assertBranchesKept(disk: TestDisk): Promise<void> {
  for (const { history, wal, end } of LIFE) {
    const segments = Math.ceil(Number(end - START) / MB);
    for (let index = 0; index < segments; index++) {
      const start = lsn(START + BigInt(index * MB));
      if (fileTimelineOf(history, start, MB) !== history.timeline) continue;
      const name = `${WAL}/${segmentName(history.timeline, start, MB)}`;
      const file = await disk.open(name, 'read');
      const length = Math.min(MB, Number(end - start));
      const bytes = Buffer.alloc(length);
      await file.read(bytes, 0);
      await file.close();
      const expected = wal.subarray(index * MB, index * MB + length);
      assert.ok(expected.equals(bytes), `${name} has what was received`);
    }
  }
}
