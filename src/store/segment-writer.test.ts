/** Segment files as they are written: names, sizes, zeros, and the order of what is durable. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { TestDisk, systemError } from '../../test/harness/test-disk.ts';
import { type Sleep, StillClock, WAL } from '../../test/harness/test-store.ts';
import { MB, START } from '../../test/harness/wal-walks.ts';
import { readWholeFile } from '../base/disk.ts';
import { advance, timelineId } from '../wal/lsn.ts';
import { SPARE_SEGMENT, SegmentWriter } from './segment-writer.ts';

const ONE = timelineId(1);
const FIRST = '000000010000000000000001';
const SECOND = '000000010000000000000002';
const NEXT = advance(START, MB);
const some = Buffer.from('some WAL');

async function withWriter(sleep: Sleep): Promise<{ disk: TestDisk; writer: SegmentWriter }> {
  const disk = new TestDisk();
  await disk.makeDirectory(WAL);
  const clock = new StillClock({ sleep });
  return { disk, writer: new SegmentWriter({ disk, clock, directory: WAL, segmentBytes: MB }) };
}

async function names(disk: TestDisk): Promise<string[]> {
  return (await disk.list(WAL)).sort();
}

for (const sleep of ['never', 'for ever'] as const) {
  const how = sleep === 'never' ? 'filled beforehand' : 'not filled beforehand';
  test(`a segment ${how} has its full size and its final name from the first byte on`, async () => {
    const { disk, writer } = await withWriter(sleep);
    await writer.write(ONE, advance(START, 100), [some, some]);
    const content = await readWholeFile(disk, `${WAL}/${FIRST}`);
    assert.equal(content.length, MB);
    assert.equal(content.subarray(100, 116).toString(), 'some WALsome WAL');
    assert.ok(content.subarray(116).every((byte) => byte === 0));
    await writer.close();
    assert.deepEqual(await names(disk), [FIRST]);
  });

  test(`what was synced in a segment ${how} outlives a power cut, name and all`, async () => {
    const { disk, writer } = await withWriter(sleep);
    await writer.write(ONE, START, [some]);
    await writer.sync();
    await writer.write(ONE, advance(START, some.length), [some]);
    disk.cutPower();
    const found = disk.afterPowerCut(() => false);
    const content = await readWholeFile(found, `${WAL}/${FIRST}`);
    assert.equal(content.length, MB);
    assert.equal(content.subarray(0, 16).toString(), 'some WAL\0\0\0\0\0\0\0\0');
  });
}

test('a segment is not begun before the name of the one before is durable', async () => {
  const { writer } = await withWriter('for ever');
  await writer.write(ONE, START, [some]);
  await assert.rejects(writer.write(ONE, NEXT, [some]), { name: 'AssertionFailed' });
  await writer.sync();
  await writer.write(ONE, NEXT, [some]);
});

test('a segment that is there is written on, also if it was cut short', async () => {
  const { disk, writer } = await withWriter('for ever');
  const file = await disk.open(`${WAL}/${FIRST}`, 'create');
  await file.write([Buffer.from('WAL that is there')], 0);
  await writer.write(ONE, START, [Buffer.from('new')]);
  const content = await readWholeFile(disk, `${WAL}/${FIRST}`);
  assert.equal(content.length, MB);
  assert.equal(content.subarray(0, 17).toString(), 'new that is there');
});

test('zeros replace what follows a position, and nothing before it', async () => {
  const { disk, writer } = await withWriter('for ever');
  await writer.write(ONE, START, [Buffer.alloc(MB, 0xff)]);
  await writer.zeroFrom(ONE, advance(START, 1_000));
  const content = await readWholeFile(disk, `${WAL}/${FIRST}`);
  assert.ok(content.subarray(0, 1_000).every((byte) => byte === 0xff));
  assert.ok(content.subarray(1_000).every((byte) => byte === 0));
});

test('no room for the next segment is told to who writes into it, and is tried anew', async () => {
  const { disk, writer } = await withWriter('never');
  await writer.write(ONE, START, [some]);
  await writer.sync();
  await writer.close();
  disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && path.endsWith(SPARE_SEGMENT)) throw systemError('ENOSPC');
  };
  await assert.rejects(writer.write(ONE, NEXT, [some]), { code: 'ENOSPC' });
  assert.equal((await names(disk)).includes(SECOND), false);
  disk.onOperation = () => {};
  await writer.write(ONE, NEXT, [some]);
  assert.ok((await names(disk)).includes(SECOND));
});

test('a spare segment that was refused long ago is tried once more when it is needed', async () => {
  const { disk, writer } = await withWriter('never');
  disk.onOperation = ({ kind, path }) => {
    if (kind === 'write' && path.endsWith(SPARE_SEGMENT)) throw systemError('ENOSPC');
  };
  const file = await disk.open(`${WAL}/${FIRST}`, 'create');
  await file.truncate(MB);
  await file.close();
  await writer.write(ONE, START, [some]);
  await writer.sync();
  await new Promise(setImmediate);
  disk.onOperation = () => {};
  await writer.write(ONE, NEXT, [some]);
  assert.ok((await names(disk)).includes(SECOND));
  await writer.close();
});

for (const what of ['a segment', 'a spare segment'] as const) {
  test(`${what} whose size could not be set is closed`, async () => {
    const { disk, writer } = await withWriter('for ever');
    if (what === 'a segment') await (await disk.open(`${WAL}/${FIRST}`, 'create')).close();
    disk.onOperation = ({ kind }) => {
      if (kind === 'write') throw systemError('ENOSPC');
    };
    await assert.rejects(writer.write(ONE, START, [some]), { code: 'ENOSPC' });
    assert.equal(disk.openFiles, 0);
  });
}
