/** Sockets between a node and its attached server, wherever the node lies. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readlink, realpath, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { openPrivateDirectory } from './private-directory.ts';

test('only its owner enters the private directory', async (t) => {
  const node = await directory(t);
  const { walSockets, sqlSockets, hbaFile } = await openPrivateDirectory(node, { user: undefined });
  assert.deepEqual(
    [walSockets, sqlSockets, hbaFile],
    [join(node, 'private/wal'), join(node, 'private/sql'), join(node, 'private/pg_hba.conf')],
  );
  assert.equal((await stat(join(node, 'private'))).mode & 0o777, 0o700);
});

test('a node that lies deep has its sockets at a short path, the same at each start', async (t) => {
  const node = join(await directory(t), 'd'.repeat(100));
  await mkdir(node);
  const first = await openPrivateDirectory(node, { user: undefined });
  t.after(() => first.remove());
  assert.ok(first.sqlSockets.length < 60, first.sqlSockets);
  assert.equal(await realpath(first.sqlSockets), join(node, 'private/sql'));
  // As after a crash: the link is still there.
  const second = await openPrivateDirectory(node, { user: undefined });
  assert.equal(second.walSockets, first.walSockets);
  await second.remove();
  await assert.rejects(readlink(join(first.walSockets, '..')), { code: 'ENOENT' });
});

test('a node whose path has a comma, at which libpq would split it, has its sockets elsewhere', async (t) => {
  const node = join(await directory(t), 'a,b');
  await mkdir(node);
  const { walSockets, sqlSockets, remove } = await openPrivateDirectory(node, { user: undefined });
  t.after(remove);
  for (const path of [walSockets, sqlSockets]) assert.doesNotMatch(path, /,/);
  assert.equal(await realpath(walSockets), join(node, 'private/wal'));
});

async function directory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(await realpath(tmpdir()), 'walcade-private-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}
