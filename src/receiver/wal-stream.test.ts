/** One stream from an upstream in memory into a store on a disk of the test. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { settle } from '../../test/harness/manual-clock.ts';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { StoreUnderTest, newNodeDisk } from '../../test/harness/test-store.ts';
import { made } from '../../test/harness/wal-walks.ts';
import { Condition } from '../base/condition.ts';
import { COPY_DONE } from '../protocol/backend-messages.ts';
import { decodeStatusUpdate } from '../protocol/replication-messages.ts';
import { INVALID_LSN, type Lsn, advance } from '../wal/lsn.ts';
import { RatePause } from './rate-pause.ts';
import { UpstreamStream } from './wal-stream.ts';

const { wal: WAL } = made([{ bodyBytes: 1_000 }]);

test('an upstream that ends its timeline and falls silent is left after the timeout', async (t) => {
  const { upstream, failures } = await stream(t, { timeoutMs: 60_000 });
  await upstream.say(COPY_DONE);
  await upstream.clock.pass(59_000);
  assert.deepEqual(failures, []);
  await upstream.clock.pass(2_000);
  assert.deepEqual(failures, ['terminating WAL receiver due to timeout']);
});

for (const { timeoutMs, limitMs } of [
  { timeoutMs: 60_000, limitMs: 30_000 },
  { timeoutMs: 2_000, limitMs: 10_000 },
  { timeoutMs: 0, limitMs: 30_000 },
]) {
  test(`a disk may take ${limitMs} ms with a wal_receiver_timeout of ${timeoutMs}`, async (t) => {
    let release = (): void => {};
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    t.after(() => release());
    const { upstream, node, disk, failures } = await stream(t, { timeoutMs });
    disk.onOperation = ({ kind }) => (kind === 'sync' ? released : undefined);
    node.append(WAL);
    await settle();
    node.clock.elapsedMs = limitMs - 1;
    await upstream.clock.pass(1_000);
    assert.deepEqual(failures, []);
    node.clock.elapsedMs = limitMs;
    await upstream.clock.pass(1_000);
    assert.deepEqual(failures, [`disk has not answered for ${limitMs} ms`]);
  });
}

test('what is replayed is not reported before it is durable here', async (t) => {
  let replayed = INVALID_LSN;
  const { upstream, node } = await stream(t, { timeoutMs: 0, apply: () => replayed });
  const flushed = node.store.flushed;
  // As an attached server does that reads a segment which is written and not synced.
  replayed = advance(flushed, 8);
  upstream.heard();
  await upstream.clock.pass(10_000);
  const update = lastStatusUpdate(upstream.heard());
  assert.deepEqual([update.flush, update.apply], [flushed, flushed]);
});

/** The last message, which has to be a status update, of what an upstream has heard. */
function lastStatusUpdate(heard: Buffer) {
  return decodeStatusUpdate(heard.subarray(-STATUS_UPDATE_BYTES));
}

const STATUS_UPDATE_BYTES = 34;

/** A stream that has begun, and what it rejects with. */
async function stream(
  t: TestContext,
  { timeoutMs, apply = () => INVALID_LSN }: { timeoutMs: number; apply?: () => Lsn },
) {
  const disk = await newNodeDisk();
  const node = await StoreUnderTest.open(disk, { sleep: 'for ever' });
  const upstream = new MemoryUpstream();
  const client = await upstream.connect();
  const failures: string[] = [];
  const stop = new AbortController();
  const running = new UpstreamStream({
    client,
    store: node.store,
    clock: upstream.clock,
    settings: () => ({ timeoutMs, statusIntervalMs: 10_000 }),
    apply,
    applyChanged: new Condition(),
    feedback: () => ({ xmin: 0n, catalogXmin: 0n }),
    feedbackChanged: new Condition(),
    onParameter: () => {},
    onUpstreamPosition: () => {},
    onWal: () => {},
    rate: new RatePause({
      bytesPerSecond: () => 0,
      readBytes: () => 0,
      askUpstream: async () => {},
      clock: upstream.clock,
    }),
  }).run(stop.signal);
  running.catch((error: Error) => failures.push(error.message));
  t.after(async () => {
    stop.abort(new Error('the test has ended'));
    upstream.hangUp();
    await running.catch(() => {});
    await node.stop();
  });
  return { upstream, node, disk, failures };
}
