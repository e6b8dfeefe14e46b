/** The file that asks a standby to promote itself. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { withdrawPromotionRequest, writePromotionRequest } from './promotion-request.ts';

async function dataDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'promotion-'));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

test('a request is a file that can be taken back once', async (t) => {
  const data = await dataDirectory(t);
  await writePromotionRequest(data, undefined);
  await writePromotionRequest(data, undefined);
  assert.equal((await readFile(join(data, 'promote'))).length, 0);
  assert.equal(await withdrawPromotionRequest(data), true);
  assert.equal(await withdrawPromotionRequest(data), false);
});

test('a link in the place of the request is replaced, not followed', async (t) => {
  const data = await dataDirectory(t);
  const other = join(data, 'other');
  await writeFile(other, 'precious');
  await symlink(other, join(data, 'promote'));
  await writePromotionRequest(data, undefined);
  assert.equal(await readFile(other, 'utf8'), 'precious');
});

test('what cannot be written is told with its path', async (t) => {
  const data = join(await dataDirectory(t), 'gone');
  await assert.rejects(writePromotionRequest(data, undefined), {
    sqlstate: '58P01',
    message: `could not create promote signal file "${data}/promote": No such file or directory`,
  });
});
