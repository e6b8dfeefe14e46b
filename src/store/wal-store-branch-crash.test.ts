/**
 * A power cut at each disk operation while a store goes on from timeline to timeline: a start
 * finds it before or after the switch, never between, with the WAL of one history and no other's.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Keep, TestDisk } from '../../test/harness/test-disk.ts';
import { StoreUnderTest, WAL, newNodeDisk } from '../../test/harness/test-store.ts';
import { makeLife, mirrorHistory } from '../../test/harness/timeline-life.ts';
import { seededRandom } from '../../test/harness/wal-recutter.ts';
import { MB, START } from '../../test/harness/wal-walks.ts';
import { fileTimelineOf } from '../wal/history.ts';
import { type Lsn, advance, formatLsn, lsn, maxLsn } from '../wal/lsn.ts';
import { segmentName } from '../wal/segment.ts';

const PIECE_BYTES = 250_000;
const LIVES_ON_EACH = 4;

const LIFE = makeLife();

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
    const again = await checkRestart(disk.afterKill(), told, `${where}, by kill -9`);
    // A whole life takes its time; another seed lives on from other places.
    if (at % LIVES_ON_EACH === seed % LIVES_ON_EACH) await liveOn(again, told, where);
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
