/** One stream from an upstream in memory into a store on a disk of the test. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { StoreUnderTest, newNodeDisk } from '../../test/harness/test-store.ts';
import { Condition } from '../base/condition.ts';
import { COPY_DONE } from '../protocol/backend-messages.ts';
import { INVALID_LSN } from '../wal/lsn.ts';
import { UpstreamStream } from './wal-stream.ts';

test('an upstream that ends its timeline and falls silent is left after the timeout', async (t) => {
  const { upstream, outcome } = await stream(t, { timeoutMs: 60_000 });
  await upstream.say(COPY_DONE);
  await upstream.clock.pass(59_000);
  assert.equal(outcome.error, undefined);
  await upstream.clock.pass(2_000);
  assert.match(outcome.error?.message ?? '', /^terminating WAL receiver due to timeout$/);
});

/** A stream that has begun, and what it rejects with. */
async function stream(t: TestContext, { timeoutMs }: { timeoutMs: number }) {
  const disk = await newNodeDisk();
  const node = await StoreUnderTest.open(disk, { sleep: 'for ever' });
  const upstream = new MemoryUpstream();
  const client = await upstream.connect();
  const outcome: { error?: Error } = {};
  const stop = new AbortController();
  const running = new UpstreamStream({
    client,
    store: node.store,
    clock: upstream.clock,
    settings: () => ({ timeoutMs, statusIntervalMs: 10_000 }),
    apply: () => INVALID_LSN,
    feedback: () => ({ xmin: 0n, catalogXmin: 0n }),
    feedbackChanged: new Condition(),
    onUpstreamPosition: () => {},
  }).run(stop.signal);
  running.catch((error: Error) => {
    outcome.error = error;
  });
  t.after(async () => {
    stop.abort(new Error('the test has ended'));
    upstream.hangUp();
    await running.catch(() => {});
    await node.stop();
  });
  return { upstream, node, disk, outcome };
}
