/**
 * Who runs PostgreSQL. What is said of root is proven where root runs the tests; for anybody else
 * the answer is always himself.
 */
import assert from 'node:assert/strict';
import { chown, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, test } from 'node:test';
import { type ServerUser, serverUser } from './server-user.ts';

/** No user has this number. */
const NOBODY_KNOWN = { uid: 54_321, gid: 54_322 };

const isRoot = process.getuid?.() === 0;

/** A directory of `owner`, if this process may give it away. */
async function directoryOf(t: TestContext, owner: ServerUser): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-user-'));
  t.after(() => rm(directory, { recursive: true }));
  if (isRoot) await chown(directory, owner.uid, owner.gid);
  return directory;
}

describe('the user of PostgreSQL', () => {
  test('an ordinary user runs it himself, root has another run it', async () => {
    const user = await serverUser();
    assert.equal(user === undefined, !isRoot);
    assert.notEqual(user?.uid, 0);
  });

  test('the owner of the data directory runs it, whoever he is', async (t) => {
    const directory = await directoryOf(t, NOBODY_KNOWN);
    assert.deepEqual(await serverUser(directory), isRoot ? NOBODY_KNOWN : undefined);
  });

  test('an owner who is known has his login group, whatever group the directory has', async (t) => {
    const user = await serverUser();
    const directory = await directoryOf(t, { uid: user?.uid ?? 0, gid: NOBODY_KNOWN.gid });
    assert.deepEqual(await serverUser(directory), user);
  });

  test('a directory of root, or one that is not there, decides nothing', async (t) => {
    const directory = await directoryOf(t, { uid: 0, gid: 0 });
    assert.deepEqual(await serverUser(directory), await serverUser());
    assert.deepEqual(await serverUser(join(directory, 'data')), await serverUser());
  });
});
