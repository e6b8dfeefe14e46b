/** Blocks of WAL in memory: loaded once, shared, forgotten, and never used while they are read. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { timelineId } from '../wal/lsn.ts';
import { BLOCK_BYTES, WalBlockCache } from './wal-block-cache.ts';

const ONE = timelineId(1);
const TWO = timelineId(2);

/** A fill whose every byte is `value`. */
function bytesOf(value: number): (bytes: Buffer) => Promise<number> {
  return (bytes) => {
    bytes.fill(value);
    return Promise.resolve(bytes.length);
  };
}

function refuse(): never {
  throw new Error('this block is in memory');
}

test('a block is loaded once for all who ask at once, and found from then on', async () => {
  const cache = new WalBlockCache({ capacityBytes: 4 * BLOCK_BYTES });
  let loads = 0;
  let release = (): void => {};
  const loaded = new Promise<void>((resolve) => (release = resolve));
  const fill = async (bytes: Buffer): Promise<number> => {
    loads += 1;
    await loaded;
    return bytes.fill(7).length;
  };
  const askers = Promise.all([1, 2, 3].map(() => cache.load(ONE, 5, fill)));
  release();
  const [first, ...others] = await askers;
  assert.equal(loads, 1);
  for (const other of others) assert.equal(other, first);
  assert.equal(first?.pins, 3);
  assert.equal(cache.find(ONE, 5), first);
  assert.equal(cache.find(TWO, 5), undefined);
});

test('a load that fails is told to all who wait for it, and tried anew by the next', async () => {
  const cache = new WalBlockCache({ capacityBytes: BLOCK_BYTES });
  const failing = (): Promise<number> => Promise.reject(new Error('no such segment'));
  const outcomes = await Promise.allSettled([
    cache.load(ONE, 1, failing),
    cache.load(ONE, 1, failing),
  ]);
  assert.deepEqual(
    outcomes.map(({ status }) => status),
    ['rejected', 'rejected'],
  );
  assert.equal((await cache.load(ONE, 1, bytesOf(3))).bytes[0], 3);
});

test('what was used longest ago goes first, and what is in use stays', async () => {
  const cache = new WalBlockCache({ capacityBytes: 2 * BLOCK_BYTES });
  const pinned = await cache.load(ONE, 1, bytesOf(1));
  for (const number of [2, 3]) cache.unpin(await cache.load(ONE, number, bytesOf(number)));
  // Block 1 is in use, so 2 had to go.
  assert.equal(cache.find(ONE, 2), undefined);
  cache.unpin(await cache.load(ONE, 3, refuse));
  cache.unpin(await cache.load(ONE, 4, bytesOf(4)));
  assert.equal(cache.find(ONE, 3), undefined);
  assert.equal(pinned.bytes[0], 1);
  assert.equal(await cache.load(ONE, 1, refuse), pinned);
});

test('a buffer is not used again while somebody reads it', async () => {
  const cache = new WalBlockCache({ capacityBytes: BLOCK_BYTES });
  const held = await cache.load(ONE, 1, bytesOf(1));
  const others = [];
  for (let number = 2; number < 10; number++) {
    const block = await cache.load(ONE, number, bytesOf(number));
    others.push(block.bytes);
    cache.unpin(block);
  }
  assert.ok(held.bytes.every((byte) => byte === 1));
  assert.equal(others.includes(held.bytes), false);
  assert.ok(new Set(others).size < others.length, 'buffers are used again');
});

test('a block is pinned as often as it is unpinned', async () => {
  const cache = new WalBlockCache({ capacityBytes: BLOCK_BYTES });
  const block = await cache.load(ONE, 1, bytesOf(1));
  cache.unpin(block);
  assert.throws(() => cache.unpin(block), { name: 'AssertionFailed' });
});

test('what is forgotten is loaded anew; another timeline and earlier blocks stay', async () => {
  const cache = new WalBlockCache({ capacityBytes: 8 * BLOCK_BYTES });
  for (const number of [1, 2, 3]) cache.unpin(await cache.load(ONE, number, bytesOf(1)));
  cache.unpin(await cache.load(TWO, 3, bytesOf(1)));
  cache.forgetFrom(ONE, 2);
  assert.deepEqual(
    [1, 2, 3].map((number) => cache.find(ONE, number) !== undefined),
    [true, false, false],
  );
  assert.equal((await cache.load(TWO, 3, refuse)).bytes[0], 1);
  assert.equal((await cache.load(ONE, 3, bytesOf(9))).bytes[0], 9);
});

test('a load that began before its block was forgotten does not bring it back', async () => {
  const cache = new WalBlockCache({ capacityBytes: 8 * BLOCK_BYTES });
  let release = (): void => {};
  const loaded = new Promise<void>((resolve) => (release = resolve));
  const loading = cache.load(ONE, 2, async (bytes) => {
    await loaded;
    return bytes.fill(1).length;
  });
  cache.forgetFrom(ONE, 2);
  // The store goes on to write the block anew, as it does after corrupt WAL.
  const live = cache.create(ONE, 2);
  release();
  const stale = await loading;
  assert.equal(stale.bytes[0], 1);
  assert.equal(cache.find(ONE, 2), live);
  cache.unpin(stale);
  assert.equal(cache.find(ONE, 2), live);
});
