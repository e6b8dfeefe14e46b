/** Where a base backup may go: mapped tablespaces, directories that are in use, room. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import type { WalcadeError } from '../base/errors.ts';
import {
  BackupDirectories,
  type BackupTarget,
  chooseTargets,
  refuseWithoutRoom,
  removeTablespaces,
} from './backup-targets.ts';

const GB = 1024 ** 3;

const USER = { uid: 65_534, gid: 65_533 };
const OURS = [0, 0o700];

const CONTENTS = {
  tablespaces: [
    { oid: '16385', location: '/srv/fast', bytes: 1000 },
    { oid: '16386', location: '/srv/slow', bytes: 2000 },
  ],
  dataDirectoryBytes: 3000,
};

test('a tablespace goes where it is mapped to, else where it was', () => {
  const mapping = new Map([['/srv/slow', '/mnt/slow']]);
  const targets = chooseTargets(CONTENTS, { directory: '/node/data', mapping });
  assert.deepEqual(
    targets.map(({ tablespace, directory, bytes }) => [tablespace?.oid, directory, bytes]),
    [
      ['16385', '/srv/fast', 1000],
      ['16386', '/mnt/slow', 2000],
      [undefined, '/node/data', 3000],
    ],
  );
});

// A misspelt mapping would put the tablespace's files where they were on the other server.
test('a mapping of what is no tablespace is refused with those there are', () => {
  const mapping = new Map([['/srv/fats', '/mnt/fast']]);
  assert.throws(() => chooseTargets(CONTENTS, { directory: '/node/data', mapping }), {
    sqlstate: '22023',
    message: 'tablespace mapping names "/srv/fats", where the server has no tablespace',
    detail: 'The server has tablespaces at "/srv/fast", "/srv/slow".',
  });
  const none = { tablespaces: [], dataDirectoryBytes: 1 };
  assert.throws(() => chooseTargets(none, { directory: '/node/data', mapping }), {
    detail: 'The server has no tablespaces but those in its data directory.',
  });
});

test('directories are made, or taken if they are empty, for nobody else to enter', async (t) => {
  const root = await makeRoot(t);
  await fs.mkdir(join(root, 'ts'), { mode: 0o755 });
  const directories = await BackupDirectories.check(targetsIn(root, ['ts'], 'data'));
  assert.deepEqual(await fs.readdir(root), ['ts'], 'checking makes nothing');
  assert.deepEqual(await directories.make(), [join(root, 'ts'), root, join(root, 'data')]);
  for (const name of ['ts', 'data']) {
    assert.equal((await fs.stat(join(root, name))).mode & 0o7777, 0o700);
    await fs.mkdir(join(root, name, 'base'));
    await fs.writeFile(join(root, name, 'base', '1'), 'x');
  }
  assert.deepEqual(directories.tablespaces, [
    { oid: '16385', location: join(root, 'ts'), existed: true },
  ]);

  // Removed is what was made, and no more.
  await directories.remove();
  assert.deepEqual(await fs.readdir(root), ['ts']);
  assert.deepEqual(await fs.readdir(join(root, 'ts')), []);
});

// Root wrote into directories that the server's user owned already, who could put links there.
test('directories are ours until they are given away, and nothing else is given', async (t) => {
  if (process.geteuid?.() !== 0) return t.diagnostic('not tested: this is not root');
  const root = await makeRoot(t);
  const [ts, data] = [join(root, 'ts'), join(root, 'data')];
  const stateOf = async (path: string) => {
    const { uid, mode } = await fs.lstat(path);
    return [uid, mode & 0o7777];
  };
  await fs.mkdir(ts);
  await fs.chown(ts, USER.uid, USER.gid);
  const make = async (): Promise<BackupDirectories> => {
    const directories = await BackupDirectories.check(targetsIn(root, ['ts'], 'data'));
    await directories.make();
    assert.deepEqual([await stateOf(ts), await stateOf(data)], [OURS, OURS]);
    return directories;
  };

  // One that comes to nothing leaves what was there as it was.
  const first = await make();
  await first.remove();
  assert.deepEqual(await stateOf(ts), [USER.uid, 0o700]);

  // In place of a directory somebody has put a link, or another one.
  const second = await make();
  const secret = join(root, 'secret');
  await fs.mkdir(secret, { mode: 0o700 });
  await fs.rename(ts, join(root, 'aside'));
  await fs.symlink(secret, ts);
  await assert.rejects(second.giveTo(USER), { message: /^could not change the owner of dir/ });
  await fs.rm(ts);
  await fs.rename(secret, ts);
  await assert.rejects(second.giveTo(USER), {
    sqlstate: '55000',
    message: `directory "${ts}" was replaced while a base backup was written to it`,
  });
  assert.deepEqual(await stateOf(ts), OURS);
  await second.remove();

  const third = await make();
  await third.giveTo(USER);
  for (const path of [ts, data]) {
    assert.deepEqual(await stateOf(path), [USER.uid, 0o700]);
  }
});

test('a directory that is in use, is none, or has no parent is refused', async (t) => {
  const root = await makeRoot(t);
  await fs.mkdir(join(root, 'used'));
  await fs.writeFile(join(root, 'used', 'file'), 'x');
  const hint = 'Use --tablespace-mapping "/srv/16385=DIRECTORY" to put it elsewhere.';
  const the = 'The tablespace that the server has at "/srv/16385"';
  await refused(targetsIn(root, ['used'], 'data'), {
    sqlstate: '58P02',
    message: `directory "${root}/used" exists but is not empty`,
    detail: `${the} is to go there.`,
    hint,
  });
  await refused(targetsIn(root, ['used/file'], 'data'), {
    sqlstate: '58P02',
    message: `"${root}/used/file" exists but is not a directory`,
  });
  await refused(targetsIn(root, ['none/ts'], 'data'), {
    sqlstate: '58P01',
    message: `directory "${root}/none" does not exist`,
    detail: `${the} is to be made in it.`,
    hint,
  });
  await refused(targetsIn(root, [], 'used'), {
    sqlstate: '58P02',
    detail: 'The data directory is to go there.',
    hint: 'Remove or empty it, or choose another directory.',
  });
  assert.deepEqual(await fs.readdir(root), ['used']);
});

test('directories in each other, or the same by any name, are refused', async (t) => {
  const root = await makeRoot(t);
  await fs.mkdir(join(root, 'empty'));
  await fs.symlink('empty', join(root, 'link'));
  const table: [string[], string, RegExp][] = [
    [['a', 'a'], 'data', /^directory ".*\/a" is to hold two parts of the base backup$/],
    [['empty', 'link'], 'data', /to hold two parts/],
    [['a'], 'a', /to hold two parts/],
    [['empty/a'], 'empty', /^directories ".*\/empty\/a" and ".*\/empty" are inside each other$/],
    [['empty'], 'empty/data', /inside each other$/],
    [['link/a', 'empty'], 'data', /inside each other$/],
  ];
  for (const [tablespaces, data, message] of table) {
    await refused(targetsIn(root, tablespaces, data), { sqlstate: '22023', message });
  }
  await BackupDirectories.check(targetsIn(root, ['a', 'ab'], 'abc'));
});

test('a backup larger than what is free is refused before anything is made', async (t) => {
  const root = await makeRoot(t);
  const targets = targetsIn(root, ['ts'], 'data').map((each) => ({ ...each, bytes: 2 ** 60 }));
  await refused(targets, {
    sqlstate: '53100',
    message: `no room for a base backup of 2097152 TB in "${root}/ts", "${root}/data"`,
  });
  assert.deepEqual(await fs.readdir(root), []);
  const room = { directories: ['/node/data'], neededBytes: 12 * GB, freeBytes: 12 * GB };
  refuseWithoutRoom(room);
  assert.throws(() => refuseWithoutRoom({ ...room, neededBytes: 12 * GB + 1 }), {
    sqlstate: '53100',
    message: 'no room for a base backup of 12 GB in "/node/data"',
    detail: 'The file system has 12 GB free.',
  });
});

test('tablespaces of a backup that is not wanted any more are removed', async (t) => {
  const root = await makeRoot(t);
  for (const name of ['made', 'there']) {
    await fs.mkdir(join(root, name));
    await fs.writeFile(join(root, name, 'file'), 'x');
  }
  await removeTablespaces([
    { oid: '1', location: join(root, 'made'), existed: false },
    { oid: '2', location: join(root, 'there'), existed: true },
  ]);
  assert.deepEqual(await fs.readdir(root, { recursive: true }), ['there']);
});

async function refused(
  targets: readonly BackupTarget[],
  expected: Partial<Record<keyof WalcadeError, string | RegExp>>,
): Promise<void> {
  await assert.rejects(BackupDirectories.check(targets), expected);
}

async function makeRoot(t: TestContext): Promise<string> {
  const root = await fs.realpath(await fs.mkdtemp(join(tmpdir(), 'targets-')));
  t.after(() => fs.rm(root, { recursive: true, force: true }));
  return root;
}

function targetsIn(root: string, tablespaces: readonly string[], data: string): BackupTarget[] {
  return [
    ...tablespaces.map((name, index) => {
      const oid = String(16_385 + index);
      const tablespace = { oid, location: `/srv/${oid}`, bytes: 1 };
      return { tablespace, directory: join(root, name), bytes: 1 };
    }),
    { tablespace: undefined, directory: join(root, data), bytes: 1 },
  ];
}
