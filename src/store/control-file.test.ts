/** What is known of the store at a start: kept through power cuts, torn writes and damage. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemError } from '../../test/harness/test-disk.ts';
import { seededRandom } from '../../test/harness/wal-recutter.ts';
import { CONTROL_DATA, NODE, newNodeDisk } from '../../test/harness/test-store.ts';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { CONTROL_FILE } from './control-file-name.ts';
import { type ControlData, ControlFile, readControlData } from './control-file.ts';
import { FsyncFailed } from './disk-refusal.ts';

const PATH = `${NODE}/${CONTROL_FILE}`;
const COPY_BYTES = 8192;

test('what was written is read back, every field of it', async () => {
  const data: ControlData = {
    nodeId: 'd5a0',
    systemIdentifier: 0xffff_ffff_ffff_fffen,
    segmentBytes: 1024 * 1024 * 1024,
    upstreamSettings: { server_version: '18.4', port: '5432' },
    timeline: timelineId(0xffff_ffff),
    walk: { from: parseLsn('FFFFFFFF/FFFFFFF8'), startsAt: 'record' },
    flushed: parseLsn('0/1000000'),
    checkpointRedo: parseLsn('0/F28'),
    cleanShutdown: false,
  };
  const disk = await newNodeDisk();
  await disk.remove(PATH);
  await ControlFile.create(disk, NODE, data);
  assert.deepEqual(await readControlData(disk, NODE), data);
});

test('a file that is there is not made again', async () => {
  const disk = await newNodeDisk();
  await assert.rejects(ControlFile.create(disk, NODE, CONTROL_DATA), { code: 'EEXIST' });
});

test('updates keep the rest, one after the other also when they come at once', async () => {
  const disk = await newNodeDisk();
  const file = await ControlFile.open(disk, NODE);
  await Promise.all([
    file.update({ flushed: parseLsn('0/110000') }),
    file.update({ cleanShutdown: false }),
    file.update({ flushed: parseLsn('0/120000') }),
  ]);
  const expected = { ...CONTROL_DATA, flushed: parseLsn('0/120000'), cleanShutdown: false };
  assert.deepEqual({ ...file.data }, expected);
  const { checkpointRedo, ...read } = await readControlData(disk, NODE);
  assert.equal(checkpointRedo, undefined);
  assert.deepEqual(read, expected);
});

test('an update sees what those before it left, though it came before they ended', async () => {
  const file = await ControlFile.open(await newNodeDisk(), NODE);
  await Promise.all([
    file.update({ nodeId: 'one' }),
    file.update(({ nodeId }) => ({ nodeId: `${nodeId}, two` })),
    file.update(({ nodeId }) => ({ nodeId: `${nodeId}, three` })),
  ]);
  assert.equal(file.data.nodeId, 'one, two, three');
});

test('a disk that refuses an update is told of in words, a failed fsync as one', async () => {
  const disk = await newNodeDisk();
  const file = await ControlFile.open(disk, NODE);
  let failing = 'write';
  disk.onOperation = ({ kind }) => {
    if (kind === failing) throw systemError(kind === 'write' ? 'ENOSPC' : 'EIO');
  };
  await assert.rejects(file.update({ nodeId: 'new' }), {
    sqlstate: '53100',
    message: 'could not write file "walcade.control": No space left on device',
    detail: undefined,
  });
  failing = 'sync';
  const isFsync = (error: unknown): boolean =>
    error instanceof FsyncFailed &&
    error.message === 'could not fsync file "walcade.control": Input/output error';
  await assert.rejects(file.update({ nodeId: 'new' }), isFsync);
  assert.equal(file.data.nodeId, CONTROL_DATA.nodeId);
});

test('a power cut within an update leaves the old content or the new, torn or not', async () => {
  const random = seededRandom(11);
  const seen = new Set<string>();
  for (let round = 0; round < 40; round++) {
    const disk = await newNodeDisk();
    const file = await ControlFile.open(disk, NODE);
    await file.update({ nodeId: 'old' });
    // More than a sector, so that it tears.
    const upstreamSettings = { long: 'x'.repeat(3_000) };
    disk.cutPowerAt = disk.operations + 1 + (round % 2);
    await assert.rejects(file.update({ nodeId: 'new', upstreamSettings }));
    const after = disk.afterPowerCut(() => random() < 0.8);
    seen.add((await readControlData(after, NODE)).nodeId);
  }
  assert.deepEqual([...seen].sort(), ['new', 'old']);
});

test('one damaged copy is outlived, two are refused in words', async () => {
  const disk = await newNodeDisk();
  const file = await ControlFile.open(disk, NODE);
  await file.update({ nodeId: 'second' });
  disk.corrupt(PATH, COPY_BYTES + 20);
  assert.equal((await readControlData(disk, NODE)).nodeId, CONTROL_DATA.nodeId);
  disk.corrupt(PATH, 20);
  await assert.rejects(ControlFile.open(disk, NODE), {
    sqlstate: 'XX001',
    message: `control file "${PATH}" is corrupted`,
  });
});

test('a file cut anywhere, or of any bytes, is refused or read, never a crash', async () => {
  const disk = await newNodeDisk();
  const whole = Buffer.alloc(2 * COPY_BYTES);
  await (await disk.open(PATH, 'read')).read(whole, 0);
  for (const bytes of [0, 1, 8, 15, 16, 17, 100, COPY_BYTES]) {
    const file = await disk.open(PATH, 'write');
    await file.truncate(bytes);
    const isWhole = bytes === COPY_BYTES;
    if (isWhole) await file.write([whole.subarray(0, bytes)], 0);
    const reading = readControlData(disk, NODE);
    if (isWhole) assert.equal((await reading).nodeId, CONTROL_DATA.nodeId);
    else await assert.rejects(reading, { sqlstate: 'XX001' });
  }
});
