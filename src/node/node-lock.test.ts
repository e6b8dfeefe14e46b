/** The node's directory: what is one, and who has it. */
import assert from 'node:assert/strict';
import { mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { systemClock } from '../base/clock.ts';
import { checkNodeDirectory } from './node-directory.ts';
import { PID_FILE, lockNode, runningPid } from './node-lock.ts';

async function makeDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

test('a directory without a control file is no node, nor is one that is absent', async (t) => {
  const directory = await makeDirectory(t);
  await assert.rejects(checkNodeDirectory(directory), {
    sqlstate: '58P01',
    message: `directory "${directory}" is not a walcade node`,
  });
  await assert.rejects(checkNodeDirectory(join(directory, 'absent')), /does not exist$/);
  await writeFile(join(directory, 'walcade.control'), '');
  await checkNodeDirectory(directory);
});

test('the lock is taken, described and released with its file', async (t) => {
  const directory = await makeDirectory(t);
  assert.equal(await runningPid(directory), undefined);
  const lock = await lockNode(directory, systemClock);
  await lock.describe('starting', 5433);
  await lock.describe('ready', 5433);
  const lines = (await readFile(join(directory, PID_FILE), 'utf8')).split('\n');
  assert.deepEqual([lines[0], lines[2], lines[3]], [String(process.pid), '5433', 'ready']);
  await lock.release();
  assert.deepEqual(await readdir(directory), []);
});

test('a pid file that no process has locked says nothing', async (t) => {
  const directory = await makeDirectory(t);
  await writeFile(join(directory, PID_FILE), `${process.pid}\n`);
  assert.equal(await runningPid(directory), undefined);
  const lock = await lockNode(directory, systemClock);
  await lock.release();
});
