/** What PostgreSQL's user sees of a node that root runs. As an ordinary user there is one user. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { openToServer } from './open-to-server.ts';

const run = promisify(execFile);

const UID = process.geteuid?.() ?? 0;
const isRoot = UID === 0;
const USER = isRoot ? { uid: 65_534, gid: 65_534 } : { uid: UID, gid: process.getgid?.() ?? 0 };

// A relay that got a server by hand, or a copy by `cp -r`: restore_command found nothing, silently.
test("what was root's alone can be read by the server's user, and not written", async (t) => {
  const { node, wal } = await makeNode(t);
  await fs.chmod(node, 0o700);
  await openToServer(node, USER);
  const modes = await Promise.all([node, wal, join(wal, 'segment')].map(modeOf));
  assert.deepEqual(modes, [0o711, 0o750, 0o640]);
  assert.equal((await fs.stat(join(wal, 'segment'))).gid, USER.gid);
  if (!isRoot) return t.diagnostic('not root: the rest is not tested');
  const asUser = (program: string, ...args: string[]) => run(program, args, { cwd: '/', ...USER });
  assert.equal((await asUser('cat', join(wal, 'segment'))).stdout, 'wal');
  await assert.rejects(asUser('touch', join(wal, 'other')), /Permission denied/);
  await assert.rejects(asUser('cp', '/dev/null', join(wal, 'segment')), /Permission denied/);
});

// pg_wal was the user's once, who could have root change the owner of any file by a link in it.
test("a directory of the server's user is taken back, and no link in it followed", async (t) => {
  if (!isRoot) return t.diagnostic('not tested: this is not root');
  const { node, wal } = await makeNode(t);
  await fs.writeFile(join(node, 'secret'), '', { mode: 0o600 });
  await fs.symlink(join(node, 'secret'), join(wal, 'planted'));
  for (const path of [wal, join(wal, 'segment')]) await fs.chown(path, USER.uid, USER.gid);
  await openToServer(node, USER);
  for (const path of [wal, join(wal, 'segment')]) {
    assert.equal((await fs.stat(path)).uid, 0, path);
  }
  const { gid, mode } = await fs.stat(join(node, 'secret'));
  assert.deepEqual([gid, mode & 0o777], [process.getgid?.(), 0o600]);
});

test('a node in a directory of another user is refused', async (t) => {
  if (!isRoot) return t.diagnostic('not tested: this is not root');
  const { node } = await makeNode(t);
  await fs.chown(node, USER.uid, USER.gid);
  await assert.rejects(openToServer(node, USER), {
    sqlstate: '55000',
    message: `directory "${node}" has wrong ownership`,
    detail: 'Its owner is user ID 65534, the node runs as user ID 0.',
  });
});

async function modeOf(path: string): Promise<number> {
  return (await fs.stat(path)).mode & 0o7777;
}

/** A directory with a segment in pg_wal that only we can read, as a relay has it. */
async function makeNode(t: TestContext): Promise<{ node: string; wal: string }> {
  const node = await fs.mkdtemp(join(tmpdir(), 'walcade-open-'));
  t.after(() => fs.rm(node, { recursive: true, force: true }));
  const wal = join(node, 'pg_wal');
  await fs.mkdir(wal, { mode: 0o700 });
  await fs.writeFile(join(wal, 'segment'), 'wal', { mode: 0o600 });
  return { node, wal };
}
