/** Slots are removed from a data directory, and nothing that is elsewhere. */
import assert from 'node:assert/strict';
import { chmod, chown, mkdir, mkdtemp, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { systemDisk } from '../base/disk.ts';
import { hasServerSlot, removeServerSlots } from './server-slots.ts';
import { serverUser } from './server-user.ts';

test('all slots go, and what a link among them leads to stays', async (t) => {
  const { data, slots, outside } = await directories(t);
  await makeSlot(slots, 'one');
  await symlink(outside, join(slots, '-two'));
  await removeServerSlots(systemDisk, data, await serverUser());
  assert.deepEqual(await readdir(slots), []);
  assert.deepEqual(await readdir(outside), ['state']);
  await removeServerSlots(systemDisk, data, await serverUser());
});

test('a data directory without slots is as it was', async (t) => {
  const { data, slots } = await directories(t);
  await rm(slots, { recursive: true });
  await removeServerSlots(systemDisk, data, await serverUser());
  assert.deepEqual(await readdir(data), []);
});

test('slots that a link leads to are not removed, as they may be those of another', async (t) => {
  // A data directory that was copied with "cp -a" has the original's link.
  const { data, slots, outside } = await directories(t);
  await rm(slots, { recursive: true });
  await symlink(outside, slots);
  await assert.rejects(removeServerSlots(systemDisk, data, await serverUser()), {
    sqlstate: '55000',
    message: `"${slots}" is not a directory`,
  });
  assert.deepEqual(await readdir(outside), ['state']);
});

test("root removes them as PostgreSQL's user, and so nothing that is not his", async (t) => {
  const user = await serverUser();
  if (user === undefined) {
    t.diagnostic('only root runs PostgreSQL as another user: nothing was shown');
    return;
  }
  const { data, slots } = await directories(t);
  const foreign = join(slots, 'foreign');
  await mkdir(foreign);
  await writeFile(join(foreign, 'state'), '');
  await assert.rejects(removeServerSlots(systemDisk, data, user), {
    sqlstate: '58030',
    message: `could not empty directory "${slots}"`,
    detail: /foreign/,
  });
  assert.deepEqual(await readdir(foreign), ['state']);
});

test('a slot is there if its directory is', async (t) => {
  const { data, slots } = await directories(t);
  await makeSlot(slots, 'one');
  assert.equal(await hasServerSlot(data, 'one'), true);
  assert.equal(await hasServerSlot(data, 'two'), false);
});

/** A data directory with one for slots, and a directory elsewhere with a file in it. */
async function directories(t: TestContext) {
  const root = await mkdtemp(join(tmpdir(), 'server-slots-'));
  t.after(() => rm(root, { recursive: true, force: true }));
  await chmod(root, 0o755);
  const [data, slots] = [join(root, 'data'), join(root, 'data/pg_replslot')];
  for (const path of [data, slots]) await makeOwn(path);
  await makeSlot(root, 'outside');
  return { data, slots, outside: join(root, 'outside') };
}

async function makeSlot(directory: string, name: string): Promise<void> {
  await makeOwn(join(directory, name));
  await writeFile(join(directory, name, 'state'), '');
}

async function makeOwn(path: string): Promise<void> {
  await mkdir(path, { mode: 0o700 });
  const user = await serverUser();
  if (user !== undefined) await chown(path, user.uid, user.gid);
}
