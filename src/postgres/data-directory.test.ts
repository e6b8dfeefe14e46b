/** What is changed in a data directory to make it a standby's, and that it can be taken back. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmod,
  copyFile,
  lstat,
  mkdir,
  mkdtemp,
  readFile,
  readdir,
  readlink,
  rm,
  symlink,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type TestContext, test } from 'node:test';
import { makeStandby, readBackupLabel } from './data-directory.ts';
import { FileChanges } from './file-changes.ts';

const CONTROL = fileURLToPath(new URL('../../test/fixtures/control/15-standby', import.meta.url));

/** When files of a test were last changed. */
const LONG_AGO = new Date('2026-01-01');

test('a standby has its signal file, and no directive that leads to nothing', async (t) => {
  const data = await dataDirectory(t, {
    'postgresql.conf': "port = 1\ninclude 'conf.d/one.conf'\n",
    'conf.d/one.conf': "include 'nowhere'\n",
  });
  await chmod(join(data, 'postgresql.conf'), 0o640);
  await chmod(join(data, 'conf.d/one.conf'), 0o640);
  await makeStandby(data, new FileChanges(undefined));
  assert.deepEqual(await contents(data), {
    'postgresql.conf': "640 port = 1\ninclude 'conf.d/one.conf'\n",
    'conf.d/one.conf': "640 #include 'nowhere'  # not on this machine\n",
    'standby.signal': '600 ',
  });
});

test('all that was changed can be taken back, whatever was there', async (t) => {
  const including = "include 'nowhere'\ninclude 'other.conf'\n";
  const cases: Record<string, string>[] = [
    {},
    { 'postgresql.conf': including, 'other.conf': including },
    { 'postgresql.conf': including, 'standby.signal': '' },
    { 'postgresql.conf': '', 'standby.signal': 'mine' },
  ];
  for (const files of cases) {
    const data = await dataDirectory(t, files);
    const before = await inventory(data);
    const changes = new FileChanges(undefined);
    await makeStandby(data, changes);
    assert.ok((await readdir(data)).includes('standby.signal'));
    await changes.takeBack();
    assert.deepEqual(await inventory(data), before);
  }
});

test('no link in the place of a file is followed, and it is put back', async (t) => {
  // Whoever owns the data directory could have had root write wherever he liked.
  const outside = join(await dataDirectory(t, {}), 'outside');
  const data = await dataDirectory(t, {});
  const conf = join(data, 'postgresql.conf');
  await symlink(outside, conf);
  for (const name of ['postgresql.conf', 'standby.signal']) {
    await symlink(outside, join(data, `${name}.walcade.tmp`));
  }
  const changes = new FileChanges(undefined);
  await makeStandby(data, changes);
  await assert.rejects(lstat(outside), /ENOENT/);
  assert.ok((await lstat(conf)).isFile());
  await changes.takeBack();
  assert.equal(await readlink(conf), outside);
  assert.deepEqual((await readdir(data)).sort(), ['global', 'postgresql.conf']);
});

test('a pipe in the place of a configuration file holds up nobody', {
  timeout: 10_000,
}, async (t) => {
  const data = await dataDirectory(t, { 'postgresql.conf': "include 'pipe.conf'\n" });
  execFileSync('mkfifo', [join(data, 'pipe.conf')]);
  await makeStandby(data, new FileChanges(undefined));
  assert.ok((await readdir(data)).includes('standby.signal'));
});

test('a file that cannot be written is named, and the one that was there is whole', async (t) => {
  const data = await dataDirectory(t, { 'postgresql.conf': "include 'nowhere'\n" });
  await mkdir(join(data, 'postgresql.conf.walcade.tmp'));
  const before = await inventory(data);
  const changes = new FileChanges(undefined);
  await assert.rejects(makeStandby(data, changes), {
    name: 'WalcadeError',
    message: new RegExp(`^could not write file "${data}/postgresql\\.conf": `),
  });
  await changes.takeBack();
  assert.deepEqual(await inventory(data), before);
});

test('what cannot be taken back is told when the rest is', async (t) => {
  const data = await dataDirectory(t, { 'postgresql.conf': "include 'nowhere'\n" });
  const changes = new FileChanges(undefined);
  await makeStandby(data, changes);
  await rm(join(data, 'standby.signal'));
  await mkdir(join(data, 'standby.signal'));
  await assert.rejects(changes.takeBack(), /^WalcadeError: could not restore file ".*\.signal": /);
  assert.equal(await readFile(join(data, 'postgresql.conf'), 'utf8'), "include 'nowhere'\n");
});

test('a backup label says where recovery begins, and one that cannot be is refused', async (t) => {
  const data = await dataDirectory(t, {});
  assert.equal(await readBackupLabel(data), undefined);
  const write = (start: string, timeline: string): Promise<void> =>
    writeFile(
      join(data, 'backup_label'),
      `START WAL LOCATION: ${start} (file ${timeline}0000000100000002)\nLABEL: x\n`,
    );
  await write('1/2000028', '00000003');
  assert.deepEqual(await readBackupLabel(data), { start: 0x1_0200_0028n, timeline: 3 });
  for (const [start, timeline] of [
    ['1/123456789', '00000003'],
    ['1/2', '00000000'],
    ['1/2', '0000000G'],
    ['1', '00000001'],
  ] as const) {
    await write(start, timeline);
    await assert.rejects(readBackupLabel(data), { sqlstate: 'XX001' });
  }
});

async function dataDirectory(t: TestContext, files: Record<string, string>): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'data-directory-'));
  t.after(() => rm(directory, { recursive: true }));
  for (const folder of ['global', 'conf.d']) {
    if (folder === 'global' || Object.keys(files).some((name) => name.startsWith(folder))) {
      await mkdir(join(directory, folder));
    }
  }
  await copyFile(CONTROL, join(directory, 'global/pg_control'));
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(directory, name), content);
    await utimes(join(directory, name), LONG_AGO, LONG_AGO);
  }
  return directory;
}

/** Of each file: its mode, its content, and when it was last changed. */
async function inventory(directory: string): Promise<Record<string, string>> {
  const found = await contents(directory);
  for (const name of Object.keys(found)) {
    found[name] += ` ${(await lstat(join(directory, name))).mtimeMs}`;
  }
  return found;
}

/** The mode and content of each file but pg_control. */
async function contents(directory: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const name of await readdir(directory, { recursive: true })) {
    const stat = await lstat(join(directory, name));
    if (!stat.isFile() || name.startsWith('global')) continue;
    const mode = (stat.mode & 0o7777).toString(8);
    found[name] = `${mode} ${await readFile(join(directory, name), 'utf8')}`;
  }
  return found;
}
