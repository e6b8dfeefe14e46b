/** Sockets between a node and its attached server, wherever the node lies. */
import assert from 'node:assert/strict';
import fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openPrivateDirectory } from './private-directory.ts';

const isRoot = process.geteuid?.() === 0;
const USER = { uid: 65_534, gid: 65_533 };

test('only its owner enters the private directory', async (t) => {
  const node = await directory(t);
  const { walSockets, sqlSockets, hbaFile } = await openPrivateDirectory(node, { user: undefined });
  assert.deepEqual(
    [walSockets, sqlSockets, hbaFile],
    [join(node, 'private/wal'), join(node, 'private/sql'), join(node, 'private/pg_hba.conf')],
  );
  for (const path of ['private', 'private/wal', 'private/sql']) {
    assert.equal((await fs.stat(join(node, path))).mode & 0o777, 0o700, path);
  }
});

test("as root the sockets are the server's, and what is written there is root's", async (t) => {
  if (!isRoot) return t.diagnostic('not tested: this is not root');
  const node = await directory(t);
  await openPrivateDirectory(node, { user: USER });
  assert.deepEqual(await inventory(join(node, 'private')), AS_ROOT);
});

// The user could have root overwrite and give him any file, by a link in a directory of his own.
test("a directory of the server's user is taken back, and no link in it followed", async (t) => {
  if (!isRoot) return t.diagnostic('not tested: this is not root');
  const node = await directory(t);
  const path = join(node, 'private');
  const secret = join(node, 'secret');
  await fs.writeFile(secret, 'secret', { mode: 0o600 });
  for (const folder of [path, join(path, 'wal'), join(path, 'sql')]) {
    await fs.mkdir(folder);
    await fs.chown(folder, USER.uid, USER.gid);
  }
  for (const name of ['pg_hba.conf', 'pg_ident.conf']) await fs.symlink(secret, join(path, name));
  await openPrivateDirectory(node, { user: USER });
  assert.deepEqual(await inventory(path), AS_ROOT);
  assert.equal(await fs.readFile(secret, 'utf8'), 'secret');
  const { uid, mode } = await fs.stat(secret);
  assert.deepEqual([uid, mode & 0o777], [0, 0o600]);
});

test('a link in place of a directory is refused', async (t) => {
  const node = await directory(t);
  await openPrivateDirectory(node, { user: undefined });
  const [sql, elsewhere] = [join(node, 'private/sql'), join(node, 'elsewhere')];
  await fs.mkdir(elsewhere, { mode: 0o755 });
  await fs.rmdir(sql);
  await fs.symlink(elsewhere, sql);
  await assert.rejects(openPrivateDirectory(node, { user: undefined }), {
    sqlstate: '42501',
    message: `cannot trust "${sql}"`,
  });
  assert.equal((await fs.stat(elsewhere)).mode & 0o777, 0o755);
});

test('a node that lies deep has its sockets at a short path, the same at each start', async (t) => {
  const node = join(await directory(t), 'd'.repeat(100));
  await fs.mkdir(node);
  const first = await openPrivateDirectory(node, { user: undefined });
  t.after(() => first.removeLink());
  const link = dirname(first.sqlSockets);
  await assert.rejects(fs.readlink(link), { code: 'ENOENT' }, 'not before it is needed');
  first.ensureLink();
  assert.ok(first.sqlSockets.length < 60, first.sqlSockets);
  assert.equal(await fs.realpath(first.sqlSockets), join(node, 'private/sql'));

  // As after a crash: the link is still there. A cleaner may take it at any time.
  const second = await openPrivateDirectory(node, { user: undefined });
  assert.equal(second.walSockets, first.walSockets);
  second.ensureLink();
  await fs.rm(link);
  second.ensureLink();
  assert.equal(await fs.readlink(link), join(node, 'private'));
  await second.removeLink();
  await assert.rejects(fs.readlink(link), { code: 'ENOENT' });

  // What somebody else has made under its name is not used.
  await fs.symlink('/', link);
  assert.throws(() => second.ensureLink(), {
    sqlstate: '42501',
    message: `cannot trust "${link}"`,
  });
});

test('a node whose path libpq would split at a comma has its sockets elsewhere', async (t) => {
  const node = join(await directory(t), 'a,b');
  await fs.mkdir(node);
  const opened = await openPrivateDirectory(node, { user: undefined });
  t.after(() => opened.removeLink());
  opened.ensureLink();
  for (const path of [opened.walSockets, opened.sqlSockets]) assert.doesNotMatch(path, /,/);
  assert.equal(await fs.realpath(opened.walSockets), join(node, 'private/wal'));
});

/** Owner, group and permissions, whatever the umask is. */
const AS_ROOT = {
  '.': [0, 0, 0o711],
  'pg_hba.conf': [0, 0, 0o644],
  'pg_ident.conf': [0, 0, 0o644],
  sql: [USER.uid, USER.gid, 0o700],
  wal: [USER.uid, USER.gid, 0o700],
};

async function inventory(path: string): Promise<Record<string, number[]>> {
  const found: Record<string, number[]> = {};
  for (const name of ['.', ...(await fs.readdir(path)).sort()]) {
    const { uid, gid, mode } = await fs.lstat(join(path, name));
    found[name] = [uid, gid, mode & 0o777];
  }
  return found;
}

async function directory(t: TestContext): Promise<string> {
  const path = await fs.mkdtemp(join(await fs.realpath(tmpdir()), 'walcade-private-'));
  t.after(() => fs.rm(path, { recursive: true, force: true }));
  return path;
}
