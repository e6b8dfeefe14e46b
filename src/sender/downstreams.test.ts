/** What the downstreams of a node ask to be kept, taken together. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { StoreUnderTest, newNodeDisk } from '../../test/harness/test-store.ts';
import { DownstreamTable, oldestXid } from './downstreams.ts';

test('the oldest transaction is the smallest of those that ask for one', () => {
  assert.equal(oldestXid([]), 0n);
  assert.equal(oldestXid([0n, 0n]), 0n);
  assert.equal(oldestXid([0n, 7n]), 7n);
  assert.equal(oldestXid([9n, 7n, 0n, 8n]), 7n);
  // Whole ids: one of an older epoch is older, whatever its lower half.
  assert.equal(oldestXid([(1n << 32n) | 3n, 0xffff_fff0n]), 0xffff_fff0n);
});

test('feedback is of all sessions and of all slots, and goes with them', async () => {
  const { slots, stop } = await openSlots();
  const table = new DownstreamTable(slots);
  let changes = 0;
  table.feedbackChanged.listen(() => changes++);
  assert.deepEqual(table.feedback(), { xmin: 0n, catalogXmin: 0n });
  const peer = { transport: 'local' } as const;
  const session = {
    user: 'u',
    applicationName: 'a',
    peer,
    startedMs: 0,
    isAttached: false,
    wireBytes: () => 0,
  };
  const first = table.add({ ...session, pid: 1 });
  const second = table.add({ ...session, pid: 2 });
  assert.deepEqual(
    table.all().map(({ state, sent }) => [state, sent]),
    [
      ['startup', 0n],
      ['startup', 0n],
    ],
  );
  first.xmin = 700n;
  second.xmin = 600n;
  second.catalogXmin = 650n;
  assert.deepEqual(table.feedback(), { xmin: 600n, catalogXmin: 650n });

  // A slot asks for as long as it is there, whoever is connected.
  const slot = await slots.create('kept', { temporary: false });
  slot.xmin = 500n;
  table.remove(second);
  assert.equal(changes, 1);
  assert.deepEqual(table.feedback(), { xmin: 500n, catalogXmin: 0n });
  await slots.drop('kept', 1);
  assert.deepEqual(table.feedback(), { xmin: 700n, catalogXmin: 0n });
  table.remove(first);
  assert.deepEqual(table.feedback(), { xmin: 0n, catalogXmin: 0n });
  await stop();
});

async function openSlots() {
  const store = await StoreUnderTest.open(await newNodeDisk(), { sleep: 'for ever' });
  return { slots: store.slots, stop: () => store.stop() };
}
