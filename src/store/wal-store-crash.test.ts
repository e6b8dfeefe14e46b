/**
 * A power cut at each single disk operation of a store's life: whatever part of what was not
 * synced is found afterwards, what always holds holds.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type RandomNumber, seededRandom } from '../../test/harness/wal-recutter.ts';
import type { Keep, TestDisk } from '../../test/harness/test-disk.ts';
import { type Sleep, StoreUnderTest, newNodeDisk } from '../../test/harness/test-store.ts';
import { START, made } from '../../test/harness/wal-walks.ts';
import { type Lsn, advance, formatLsn, maxLsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import { oldestKept } from './retention.ts';

/** Records within a page, over pages, over a segment boundary, over a whole segment. */
const SIZES = [40, 9_000, 300_000, 24, 600_000, 7_000, 1_150_000, 200, 90_000];
const { wal, records } = made(SIZES.map((bodyBytes) => ({ bodyBytes })));
const END = advance(START, wal.length);
const PIECE_BYTES = 250_000;

/** What the world outside has been told. */
interface Told {
  /** As flushed, to the upstream. */
  flushed: Lsn;
  /** To the slot's owner, as kept for it. */
  slot: Lsn | undefined;
}

test('a power cut at any operation loses nothing of what was told', async () => {
  await cutEverywhere('never', (random) => [() => false, () => true, half(random)]);
});

test('so it is when segments grow with their WAL, as none was filled beforehand', async () => {
  await cutEverywhere('for ever', (random) => [half(random)]);
});

async function cutEverywhere(
  sleep: Sleep,
  variants: (random: RandomNumber) => readonly Keep[],
): Promise<void> {
  const seed = Date.now() % 1_000_000;
  const keeps = variants(seededRandom(seed));
  const whole = await newNodeDisk();
  const before = whole.operations;
  await live(whole, { flushed: START, slot: undefined }, sleep);
  const operations = whole.operations - before;
  assert.ok(operations > 100, `${operations} operations`);
  for (let at = 1; at <= operations; at++) {
    const disk = await newNodeDisk();
    const told: Told = { flushed: START, slot: undefined };
    disk.cutPowerAt = disk.operations + at;
    await live(disk, told, sleep).catch(() => {});
    disk.cutPower();
    const where = `seed ${seed}, power cut at operation ${at} of ${operations}`;
    for (const keep of keeps) await checkRestart(disk.afterPowerCut(keep), { keep, told, where });
    // If only the process was killed, the power may still be cut after the next start.
    const keep: Keep = () => false;
    await checkRestart(disk.afterKill(), { keep, told, where: `${where}, first by kill -9` });
  }
}

function half(random: RandomNumber): Keep {
  return () => random() < 0.5;
}

/** Everything that a node does with its disk: WAL, control file, slots, removal; then it stops. */
async function live(disk: TestDisk, told: Told, sleep: Sleep): Promise<void> {
  const node = await StoreUnderTest.open(disk, { sleep });
  const { store, slots } = node;
  store.progress.listen(() => {
    told.flushed = maxLsn(told.flushed, store.flushed);
  });
  const slot = await slots.create('standby', { temporary: false, restartLsn: START });
  told.slot = START;
  while (store.received < END) {
    node.append(wal, advance(store.received, Math.min(PIECE_BYTES, Number(END - store.received))));
    if (Number(store.received) % 3 !== 0) await store.drained(node.ended);
    node.ended.throwIfAborted();
    await store.checkpoint();
    slot.restartLsn = store.flushed;
    await slots.saveAll();
    told.slot = slot.restartLsn;
    const { flushed, walkFrom, checkpointRedo, segmentBytes } = store;
    const claims = { flushed, walkFrom, checkpointRedo, keepBytes: 0n, reserved: slots.claims() };
    await store.removeBefore(oldestKept(claims, segmentBytes));
  }
  await store.drained(node.ended);
  await node.stop();
}

interface Restart {
  /** What a second power cut leaves: it shows what the first start has made durable. */
  keep: Keep;
  told: Told;
  where: string;
}

/** Starts what is found, checks it, cuts the power again, and goes on to the end. */
async function checkRestart(found: TestDisk, { keep, told, where }: Restart): Promise<void> {
  try {
    const node = await StoreUnderTest.open(found);
    check(node, told);
    await assertStored(node);
    const again = { flushed: node.store.flushed, slot: told.slot };
    found.cutPower();
    await node.stop().catch(() => {});
    const second = await StoreUnderTest.open(found.afterPowerCut(keep));
    check(second, again);
    await second.appendDurably(wal);
    assert.equal(second.store.flushed, END);
    await assertStored(second);
    await second.stop();
    assert.equal(second.control.data.cleanShutdown, true);
    assert.deepEqual(second.log, []);
  } catch (error) {
    throw new Error(`${where}: ${String(error)}`, { cause: error });
  }
}

function check({ store, slots }: StoreUnderTest, told: Told): void {
  const { received, flushed, written, proven, oldest, segmentBytes } = store;
  // What was reported is there up to the last record's end; of a longer record its last segment.
  const lastEnd = records.findLast(({ end }) => end <= told.flushed)?.end ?? START;
  assert.ok(received >= lastEnd, `${formatLsn(received)} is before ${formatLsn(lastEnd)}`);
  const segment = segmentStart(told.flushed, segmentBytes);
  assert.ok(received >= segment, `${formatLsn(received)} is before ${formatLsn(segment)}`);
  assert.equal(flushed, received);
  assert.equal(written, received);
  assert.ok(proven <= received);
  assert.equal(store.served.value, proven);
  const slot = slots.find('standby')?.restartLsn;
  if (told.slot === undefined) return;
  assert.ok(slot !== undefined, 'a slot that was told of is there');
  assert.ok(slot >= oldest, `slot at ${formatLsn(slot)}, store from ${formatLsn(oldest)} on`);
}

async function assertStored({ store }: StoreUnderTest): Promise<void> {
  for (let at = store.oldest; at < store.served.value; ) {
    const chunk = await store.read(store.history, at, store.served.value);
    const from = Number(at - START);
    const expected = wal.subarray(from, from + chunk.bytes.length);
    assert.ok(expected.equals(chunk.bytes), `WAL from ${formatLsn(at)} on is as it was sent`);
    at = advance(at, chunk.bytes.length);
    chunk.release();
  }
}
