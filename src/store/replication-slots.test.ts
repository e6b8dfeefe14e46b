/** Slots of downstreams: what outlives a power cut, what they claim, and who may use them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type TestDisk, systemError } from '../../test/harness/test-disk.ts';
import { SLOTS, newNodeDisk } from '../../test/harness/test-store.ts';
import { seededRandom } from '../../test/harness/wal-recutter.ts';
import { type Lsn, parseLsn } from '../wal/lsn.ts';
import { ReplicationSlots } from './replication-slots.ts';

const PERSISTENT = { temporary: false };

function open(disk: TestDisk, max = 10): Promise<ReplicationSlots> {
  return ReplicationSlots.open({ disk, directory: SLOTS, max: () => max });
}

test('a persistent slot outlives a power cut as it was saved, a temporary one not', async () => {
  const disk = await newNodeDisk();
  const slots = await open(disk);
  const slot = await slots.create('standby', { ...PERSISTENT, restartLsn: parseLsn('0/1000000') });
  await slots.create('pg_basebackup_7', { temporary: true, restartLsn: parseLsn('0/1') });
  await slots.create('empty', PERSISTENT);
  slots.acquire('standby', 7);
  slot.xmin = 0xffff_ffff_ffffn;
  slot.restartLsn = parseLsn('0/2000000');
  await slots.saveAll();
  slot.restartLsn = parseLsn('0/3000000');
  disk.cutPower();

  const found = await open(disk.afterPowerCut(() => false));
  const nothing = { temporary: false, activePid: undefined, catalogXmin: 0n };
  assert.deepEqual(
    new Map(found.all().map((each) => [each.name, each])),
    new Map([
      [
        'standby',
        { ...nothing, name: 'standby', restartLsn: parseLsn('0/2000000'), xmin: 0xffff_ffff_ffffn },
      ],
      ['empty', { ...nothing, name: 'empty', restartLsn: undefined, xmin: 0n }],
    ]),
  );
});

test('a power cut while a slot is saved leaves it as it was or as it is', async () => {
  const random = seededRandom(5);
  const seen = new Set<Lsn | undefined>();
  for (let round = 0; round < 60; round++) {
    const disk = await newNodeDisk();
    const slots = await open(disk);
    const slot = await slots.create('s', { ...PERSISTENT, restartLsn: parseLsn('0/1000000') });
    slot.restartLsn = parseLsn('0/2000000');
    disk.cutPowerAt = disk.operations + 1 + (round % 6);
    await slots.saveAll().catch(() => {});
    disk.cutPower();
    seen.add((await open(disk.afterPowerCut(() => random() < 0.5))).get('s').restartLsn);
  }
  assert.deepEqual(seen, new Set([parseLsn('0/1000000'), parseLsn('0/2000000')]));
});

test('a slot claims where it stands or where a crash puts it, whichever is older', async () => {
  const disk = await newNodeDisk();
  const slots = await open(disk);
  const oldest = (): Lsn | undefined => slots.claims().sort((a, b) => (a < b ? -1 : 1))[0];
  const slot = await slots.create('s', PERSISTENT);
  assert.equal(oldest(), undefined);
  // A slot without WAL begins to claim with the first confirmed flush, saved or not.
  slot.restartLsn = parseLsn('0/3000000');
  assert.equal(oldest(), parseLsn('0/3000000'));
  await slots.saveAll();
  slot.restartLsn = parseLsn('0/4000000');
  assert.equal(oldest(), parseLsn('0/3000000'));
  slot.restartLsn = parseLsn('0/2000000');
  assert.equal(oldest(), parseLsn('0/2000000'));
});

test('a slot that cannot be saved claims as before, and can be saved later', async () => {
  const disk = await newNodeDisk();
  const slots = await open(disk);
  const slot = await slots.create('s', { ...PERSISTENT, restartLsn: parseLsn('0/1000000') });
  slot.restartLsn = parseLsn('0/2000000');
  disk.onOperation = ({ kind }) => {
    if (kind === 'write') throw systemError('ENOSPC');
  };
  await assert.rejects(slots.saveAll(), { code: 'ENOSPC' });
  assert.ok(slots.claims().includes(parseLsn('0/1000000')));
  disk.onOperation = () => {};
  await slots.saveAll();
  assert.deepEqual(new Set(slots.claims()), new Set([parseLsn('0/2000000')]));
});

test('a slot that could not be made is not there', async () => {
  const disk = await newNodeDisk();
  const slots = await open(disk);
  disk.onOperation = ({ kind }) => {
    if (kind === 'sync') throw systemError('EIO');
  };
  await assert.rejects(slots.create('s', PERSISTENT), { code: 'EIO' });
  assert.equal(slots.find('s'), undefined);
});

test('names are taken once, and there are no more slots than allowed', async () => {
  const slots = await open(await newNodeDisk(), 2);
  await slots.create('a', PERSISTENT);
  await assert.rejects(slots.create('a', { temporary: true }), {
    sqlstate: '42710',
    message: 'replication slot "a" already exists',
  });
  await slots.create('b', { temporary: true });
  await assert.rejects(slots.create('c', PERSISTENT), {
    sqlstate: '53400',
    message: 'all replication slots are in use',
  });
});

test('one session at a time uses a slot; it is dropped when nobody does', async () => {
  const disk = await newNodeDisk();
  const slots = await open(disk);
  await slots.create('s', PERSISTENT);
  const slot = slots.acquire('s', 1001);
  const inUse = { sqlstate: '55006', message: 'replication slot "s" is active for PID 1001' };
  assert.throws(() => slots.acquire('s', 1002), inUse);
  await assert.rejects(slots.drop('s', 8), inUse);
  const free = slots.waitUntilFree('s', 8, new AbortController().signal);
  slots.release(slot);
  await free;
  await slots.drop('s', 8);
  const missing = { sqlstate: '42704', message: 'replication slot "s" does not exist' };
  assert.throws(() => slots.acquire('s', 1002), missing);
  await assert.rejects(slots.drop('s', 8), missing);
  disk.cutPower();
  assert.deepEqual((await open(disk.afterPowerCut(() => false))).all(), []);
});

test('the temporary slots of a session go with it, and no others', async () => {
  const slots = await open(await newNodeDisk());
  await slots.create('mine', { temporary: true, activePid: 1 });
  await slots.create('another', { temporary: true, activePid: 2 });
  await slots.create('kept', { temporary: false, activePid: 1 });
  slots.dropTemporary(1);
  assert.deepEqual(
    slots.all().map(({ name }) => name),
    ['another', 'kept'],
  );
});

test('a damaged state file is refused with its name, whatever it holds', async () => {
  for (const content of ['', '{', '[]', '{"xmin":"1"}', '{"xmin":"-1","catalogXmin":"0"}']) {
    const disk = await newNodeDisk();
    const file = await disk.open(`${SLOTS}/s.json`, 'create');
    await file.write([Buffer.from(content)], 0);
    await assert.rejects(open(disk), {
      sqlstate: 'XX001',
      message: 'state file of replication slot "s" is corrupted',
      hint: 'Remove "pg_replslot/s.json" and make the slot anew.',
    });
  }
});

test('what a cut save left beside the state files is passed over', async () => {
  const disk = await newNodeDisk();
  await disk.open(`${SLOTS}/s.json.tmp`, 'create');
  const slots = await open(disk);
  assert.deepEqual(slots.all(), []);
  await slots.create('s', PERSISTENT);
});

// A slot that was said to be there no more came back with the next start, and kept all WAL.
test('a slot whose file cannot be removed is still there, free, and claims its WAL', async () => {
  const disk = await newNodeDisk();
  const slots = await open(disk);
  const restartLsn = parseLsn('0/1000000');
  await slots.create('s', { ...PERSISTENT, restartLsn });
  let failing = 'names';
  disk.onOperation = ({ kind }) => {
    if (kind === failing) throw systemError('EIO');
  };
  for (failing of ['names', 'sync-directory']) {
    await assert.rejects(slots.drop('s', 8), { code: 'EIO' });
    assert.deepEqual(slots.claims().at(-1), restartLsn);
    assert.equal(slots.get('s').activePid, undefined);
  }
  // What is there is saved again, and a drop that goes through drops it.
  disk.onOperation = () => {};
  await slots.saveAll();
  assert.equal((await open(disk)).get('s').restartLsn, restartLsn);
  await slots.drop('s', 8);
  assert.deepEqual((await open(disk)).all(), []);
});

test('nobody takes a slot that is just being dropped', async () => {
  const slots = await open(await newNodeDisk());
  await slots.create('s', PERSISTENT);
  const dropped = slots.drop('s', 8);
  assert.throws(() => slots.acquire('s', 9), { sqlstate: '55006' });
  await dropped;
  assert.throws(() => slots.acquire('s', 9), { sqlstate: '42704' });
});
