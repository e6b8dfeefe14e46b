/**
 * Readers of a store that goes from timeline to timeline, in any order of what each of them waits
 * for: what is read is the WAL of the history that it was asked of, while the store is on that
 * timeline and after it has left it.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StoreUnderTest, newNodeDisk } from '../../test/harness/test-store.ts';
import { makeLife, mirrorHistory } from '../../test/harness/timeline-life.ts';
import { type RandomNumber, seededRandom } from '../../test/harness/wal-recutter.ts';
import { START } from '../../test/harness/wal-walks.ts';
import type { Watermark } from '../base/watermark.ts';
import type { TimelineHistory } from '../wal/history.ts';
import { type Lsn, advance, distance, formatLsn, lsn } from '../wal/lsn.ts';
import type { WalStore } from './wal-store.ts';

const LIFE = makeLife();
const READERS = 6;
const SEEDS = 12;
const PIECE_BYTES = 150_000;

test('readers of any timeline get its WAL, whatever the store goes on with meanwhile', async () => {
  const first = Date.now() % 1_000_000;
  for (let seed = first; seed < first + SEEDS; seed++) {
    try {
      await readWhileBranching(seededRandom(seed));
    } catch (error) {
      throw new Error(`seed ${seed}: ${String(error)}`, { cause: error });
    }
  }
});

/** What a sender has taken of the store when it began to feed. */
interface Snapshot {
  history: TimelineHistory;
  served: Watermark<Lsn>;
}

async function readWhileBranching(random: RandomNumber): Promise<void> {
  const node = await StoreUnderTest.open(await newNodeDisk(), { sleep: 'for ever' });
  const { store } = node;
  const snapshots: Snapshot[] = [];
  const over = new AbortController();
  node.disk.onOperation = () => turns(random);
  const readers = Array.from({ length: READERS }, async () => {
    let reads = 0;
    while (!over.signal.aborted) reads += await readOne(store, snapshots, random);
    return reads;
  });
  for (const [index, line] of LIFE.entries()) {
    if (index > 0) {
      await mirrorHistory(node.disk, line);
      await store.branch(line, node.ended);
    }
    snapshots.push({ history: store.history, served: store.served });
    while (store.received < line.end) {
      const left = distance(store.received, line.end);
      node.append(line.wal, advance(store.received, Math.min(PIECE_BYTES, left)));
      await turns(random);
      if (random() < 0.3) await store.checkpoint();
      if (random() < 0.2) await store.rewind(node.ended);
    }
    await store.drained(node.ended);
  }
  over.abort();
  for (const reads of await Promise.all(readers)) assert.ok(reads > 0);
  await node.stop();
}

/** Reads somewhere in the WAL of any snapshot and keeps the bytes for a while. */
async function readOne(
  store: WalStore,
  snapshots: readonly Snapshot[],
  random: RandomNumber,
): Promise<number> {
  await turns(random);
  const snapshot = snapshots[Math.floor(random() * snapshots.length)];
  const end = snapshot?.served.value ?? START;
  if (snapshot === undefined || end === START) return 0;
  const { history } = snapshot;
  const { wal } = LIFE[history.timeline - 1] ?? assert.fail();
  const start = lsn(START + BigInt(Math.floor(random() * distance(START, end))));
  const chunk = await store.read(history, start, end);
  const from = distance(START, start);
  const expected = wal.subarray(from, from + chunk.bytes.length);
  const what = `WAL of timeline ${history.timeline} from ${formatLsn(start)} on`;
  assert.ok(expected.equals(chunk.bytes), what);
  await turns(random);
  assert.ok(expected.equals(chunk.bytes), `${what}, a while later`);
  chunk.release();
  return 1;
}

/** Lets others go on, some number of times. */
async function turns(random: RandomNumber): Promise<void> {
  for (let left = Math.floor(random() * 12); left > 0; left--) await Promise.resolve();
  if (random() < 0.3) await new Promise((resolve) => setImmediate(resolve));
}
