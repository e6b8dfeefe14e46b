/** Housekeeping: room is made as soon as it may be, and what the disk refuses ends no node. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ManualClock } from '../../test/harness/manual-clock.ts';
import { systemError } from '../../test/harness/test-disk.ts';
import { StoreUnderTest, WAL, newNodeDisk } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { type LogEntry, createLog } from '../base/log.ts';
import { CONTROL_FILE } from '../store/control-file-name.ts';
import { advance } from '../wal/lsn.ts';
import { isSegmentName } from '../wal/segment.ts';
import { keepRetention } from './retention-keeper.ts';

const { wal } = made(Array.from({ length: 40 }, () => ({ bodyBytes: 100_000 })));
const END = advance(START, 3 * MB + 250_000);

// Who lowered wal_keep_size on a full disk waited for ever: no segment was completed any more.
test('WAL is removed as soon as wal_keep_size is lowered, with no new segment', async () => {
  const node = await withKeeper();
  await node.clock.pass(5_000);
  assert.equal(await node.segments(), 4);
  node.keepBytes = 0;
  await node.clock.pass(1_000);
  assert.equal(await node.segments(), 1);
  await node.stop();
});

test('WAL is removed as soon as the slot that kept it is dropped', async () => {
  const node = await withKeeper();
  const slot = { temporary: true, restartLsn: START, activePid: 7 };
  await node.store.slots.create('backup', slot);
  node.keepBytes = 0;
  await node.clock.pass(5_000);
  assert.equal(await node.segments(), 4);
  node.store.slots.dropTemporary(7);
  await node.clock.pass(1_000);
  assert.equal(await node.segments(), 1);
  await node.stop();
});

test('a segment that cannot be removed is told of once, and tried until it is', async () => {
  const node = await withKeeper();
  node.store.disk.onOperation = ({ kind, path }) => {
    if (kind === 'names' && path.startsWith(WAL)) throw systemError('EPERM');
  };
  node.keepBytes = 0;
  await node.clock.pass(10_000);
  assert.deepEqual(node.messages(), [
    'could not remove WAL segment 000000010000000000000001: Operation not permitted',
  ]);
  node.store.disk.onOperation = () => {};
  await node.clock.pass(1_000);
  assert.equal(await node.segments(), 1);
  await node.stop();
});

test('names that are no segment, and segments that others removed, end nothing', async () => {
  const node = await withKeeper();
  const foreign = `${WAL}/000000010000000000001000`;
  await (await node.store.disk.open(foreign, 'create')).close();
  node.store.disk.onOperation = async ({ kind, path, number }) => {
    if (kind === 'names' && path.startsWith(WAL) && number > 0) {
      node.store.disk.onOperation = () => {};
      await node.store.disk.remove(path);
    }
  };
  node.keepBytes = 0;
  await node.clock.pass(1_000);
  assert.deepEqual(node.messages(), []);
  assert.equal(await node.segments(), 2, 'the newest one, and the foreign file');
  await node.stop();
});

test('a control file with no room is told of once, and written when there is some', async () => {
  const node = await withKeeper();
  node.store.disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && path.endsWith(CONTROL_FILE)) throw systemError('ENOSPC');
  };
  await node.store.appendDurably(wal, advance(END, 1_000));
  await node.clock.pass(10_000);
  assert.deepEqual(node.messages(), [
    'could not write file "walcade.control": No space left on device',
  ]);
  node.store.disk.onOperation = () => {};
  await node.clock.pass(1_000);
  assert.equal(node.store.control.data.flushed, advance(END, 1_000));
  await node.stop();
});

test('a failed fsync of the control file ends it', async () => {
  const node = await withKeeper();
  await node.store.appendDurably(wal, advance(END, 1_000));
  node.store.disk.onOperation = ({ kind, path }) => {
    if (kind === 'sync' && path.endsWith(CONTROL_FILE)) throw systemError('EIO');
  };
  await node.clock.pass(1_000);
  await assert.rejects(node.ended, {
    message: 'could not fsync file "walcade.control": Input/output error',
  });
});

/** A store with three segments and a part of the fourth, kept whole until the test says so. */
async function withKeeper() {
  const store = await StoreUnderTest.open(await newNodeDisk(), { sleep: 'for ever' });
  await store.appendDurably(wal, END);
  await store.store.checkpoint();
  const clock = new ManualClock();
  const entries: LogEntry[] = [];
  const stop = new AbortController();
  const node = {
    store,
    clock,
    keepBytes: 100 * MB,
    messages: () => entries.map(({ message }) => message),
    segments: async () => (await store.disk.list(WAL)).filter(isSegmentName).length,
    ended: Promise.resolve(),
    stop: async () => {
      stop.abort(new Error('the test stops the keeper'));
      await assert.rejects(node.ended, { message: 'the test stops the keeper' });
      await store.stop();
    },
  };
  const log = createLog((entry) => entries.push(entry), { minimum: () => 'warning' });
  const attachedRedo = () => Promise.resolve(undefined);
  const options = { slots: store.slots, backupStarts: new Set<never>(), attachedRedo, clock, log };
  node.ended = keepRetention(
    { ...options, store: store.store, keepBytes: () => node.keepBytes },
    stop.signal,
  );
  node.ended.catch(() => {});
  return node;
}
