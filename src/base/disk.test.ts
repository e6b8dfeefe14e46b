/** The real disk: what it makes for whom, and what it does not follow. */
import assert from 'node:assert/strict';
import fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { diskReadableBy, removeIfThere, systemDisk } from './disk.ts';

const GROUP = process.getuid?.() === 0 ? 65_534 : (process.getgid?.() ?? 0);

test('a file is for its owner alone, unless it is made for a group to read', async (t) => {
  const directory = await makeDirectory(t);
  const shared = diskReadableBy(systemDisk, GROUP);
  await (await systemDisk.open(join(directory, 'own'), 'create')).close();
  await (await shared.open(join(directory, 'shared'), 'create')).close();
  await (await shared.open(join(directory, 'own'), 'write')).close();
  assert.equal((await fs.stat(join(directory, 'own'))).mode & 0o777, 0o600);
  const { gid, mode } = await fs.stat(join(directory, 'shared'));
  assert.deepEqual([gid, mode & 0o777], [GROUP, 0o640]);
});

// Another user owned pg_wal, and root wrote WAL into whatever a link there led to.
test('a link in place of a file is not followed', async (t) => {
  const directory = await makeDirectory(t);
  const [file, link] = [join(directory, 'file'), join(directory, 'link')];
  await fs.writeFile(file, 'secret');
  await fs.symlink(file, link);
  await assert.rejects(systemDisk.open(link, 'read'), { code: 'ELOOP' });
  await assert.rejects(systemDisk.open(link, 'write'), { code: 'ELOOP' });
  await assert.rejects(systemDisk.open(link, 'create'), { code: 'EEXIST' });
});

test('what is removed is a file or a link itself, and never a directory', async (t) => {
  const directory = await makeDirectory(t);
  const [file, link] = [join(directory, 'file'), join(directory, 'link')];
  await fs.writeFile(file, '');
  await fs.symlink(file, link);
  await systemDisk.remove(link);
  assert.deepEqual(await fs.readdir(directory), ['file']);
  // macOS says EPERM.
  await assert.rejects(systemDisk.remove(directory), { code: /^(?:EISDIR|EPERM)$/ });
  await removeIfThere(systemDisk, file);
  await removeIfThere(systemDisk, file);
  assert.deepEqual(await fs.readdir(directory), []);
});

async function makeDirectory(t: TestContext): Promise<string> {
  const directory = await fs.mkdtemp(join(tmpdir(), 'walcade-disk-'));
  t.after(() => fs.rm(directory, { recursive: true, force: true }));
  return directory;
}
