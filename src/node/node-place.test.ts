/** Telling a copied node from one that was moved or renamed. */
import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, rename, rm, symlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { checkFilesOfCopy, isCopy, readPlace, slotOfCopy } from './node-place.ts';

test('a node is copied when it is elsewhere and has another name', async (t) => {
  const root = await directory(t);
  const slave = join(root, 'slave');
  await mkdir(slave);
  const before = await readPlace(slave, {
    name: 'slave',
    primarySlotName: '',
    dataDirectory: undefined,
  });
  await cp(slave, join(root, 'slave2'), { recursive: true });
  const look = (where: string, name: string) =>
    readPlace(join(root, where), { name, primarySlotName: '', dataDirectory: undefined });
  assert.equal(isCopy(before, await look('slave', 'slave')), false);
  assert.equal(isCopy(before, await look('slave', 'other')), false, 'it was renamed');
  assert.equal(isCopy(before, await look('slave2', 'slave')), false, 'it was moved');
  assert.equal(isCopy(before, await look('slave2', 'slave2')), true);
  await rename(slave, join(root, 'elsewhere'));
  assert.equal(isCopy(before, await look('elsewhere', 'other')), false, 'moved and renamed');
});

for (const [recorded, inCopy, slot, sentence] of [
  ['slave', 'slave', 'slave_2', 'a copy with the slot of its original gets one of its own'],
  ['custom', 'custom', 'slave_2', 'so it does when that slot was named by a person'],
  ['slave', 'chosen', undefined, 'a copy for which a slot was chosen keeps it'],
  ['slave', '', undefined, 'a copy for which no slot was chosen has none'],
  ['', '', undefined, 'a copy of a node without a slot has none'],
  [undefined, 'slave', 'slave_2', 'where no slot is on record, the name of the original tells it'],
  [
    undefined,
    'custom',
    undefined,
    'where no slot is on record, another name is one that was chosen',
  ],
] as const) {
  test(sentence, () => {
    const place = { directory: '1:1', tablespaces: {} };
    const original = { ...place, name: 'Slave', primarySlotName: recorded };
    const copy = { ...place, name: 'slave-2', primarySlotName: inCopy };
    assert.equal(slotOfCopy(original, copy), slot);
  });
}

test('a copy whose tablespaces were not copied is refused', async (t) => {
  const root = await directory(t);
  const [data, copy] = [join(root, 'a', 'data'), join(root, 'b', 'data')];
  for (const folder of [data, copy]) await mkdir(join(folder, 'pg_tblspc'), { recursive: true });
  for (const space of ['ts', 'ts2']) await mkdir(join(root, space));
  await symlink(join(root, 'ts'), join(data, 'pg_tblspc', '16400'));
  await symlink(join(root, 'ts'), join(copy, 'pg_tblspc', '16400'));
  const original = await readPlace(join(root, 'a'), {
    name: 'a',
    primarySlotName: '',
    dataDirectory: data,
  });
  const shared = await readPlace(join(root, 'b'), {
    name: 'b',
    primarySlotName: '',
    dataDirectory: copy,
  });
  assert.throws(() => checkFilesOfCopy(original, shared), {
    sqlstate: '55006',
    message: 'tablespace 16400 is the same directory as that of node "a"',
  });
  await rm(join(copy, 'pg_tblspc', '16400'));
  await symlink(join(root, 'ts2'), join(copy, 'pg_tblspc', '16400'));
  const own = await readPlace(join(root, 'b'), {
    name: 'b',
    primarySlotName: '',
    dataDirectory: copy,
  });
  checkFilesOfCopy(original, own);
});

test('a copy whose data directory was not copied is refused', async (t) => {
  const root = await directory(t);
  const look = (name: string, data: string) =>
    readPlace(join(root, name), { name, primarySlotName: '', dataDirectory: join(root, data) });
  for (const name of ['a', 'b', 'data', 'data2']) await mkdir(join(root, name));
  const original = await look('a', 'data');
  const [shared, own] = [await look('b', 'data'), await look('b', 'data2')];
  assert.throws(() => checkFilesOfCopy(original, shared), {
    sqlstate: '55006',
    message: 'data directory is the same as that of node "a"',
  });
  checkFilesOfCopy(original, own);
});

test('tablespaces that are missing here and there are not one and the same', async (t) => {
  // A copy with two links that led nowhere was refused for sharing their directories.
  const root = await directory(t);
  const look = async (name: string) => {
    const tablespaces = join(root, name, 'data', 'pg_tblspc');
    await mkdir(tablespaces, { recursive: true });
    for (const oid of ['16400', '16401']) await symlink('/nowhere', join(tablespaces, oid));
    return readPlace(join(root, name), {
      name,
      primarySlotName: '',
      dataDirectory: join(root, name, 'data'),
    });
  };
  const original = await look('a');
  assert.deepEqual(original.tablespaces, {});
  checkFilesOfCopy(original, await look('b'));
  // As a control file may still have it.
  checkFilesOfCopy({ ...original, tablespaces: { 16400: 'missing' } }, await look('c'));
});

async function directory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'walcade-place-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}
