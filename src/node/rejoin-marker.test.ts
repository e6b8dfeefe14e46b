/** How far a rejoin has come, as a file tells it. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { systemDisk } from '../base/disk.ts';
import { checkRejoined, forgetRejoin, noteRejoinStep, readRejoinStep } from './rejoin-marker.ts';

test('a step is known until it is forgotten', async (t) => {
  const directory = await makeDirectory(t);
  assert.equal(await readRejoinStep(directory), undefined);
  for (const step of ['copying', 'swapping', 'finishing'] as const) {
    await noteRejoinStep(systemDisk, directory, step);
    assert.equal(await readRejoinStep(directory), step);
  }
  await forgetRejoin(systemDisk, directory);
  await forgetRejoin(systemDisk, directory);
  assert.deepEqual(await fs.readdir(directory), []);
});

test('a node must not start between its old state and its new one', async (t) => {
  const directory = await makeDirectory(t);
  await checkRejoined(directory);
  await noteRejoinStep(systemDisk, directory, 'copying');
  await checkRejoined(directory);
  await noteRejoinStep(systemDisk, directory, 'rewinding');
  await assert.rejects(checkRejoined(directory), {
    sqlstate: '55000',
    message: 'node has not rejoined its cluster yet',
    detail: '"walcade rejoin" was broken off while pg_rewind was changing the data directory.',
  });
});

test('what is no step is refused', async (t) => {
  const directory = await makeDirectory(t);
  await fs.writeFile(join(directory, 'walcade.rejoin'), 'toString\n');
  await assert.rejects(checkRejoined(directory), { sqlstate: 'XX001' });
});

async function makeDirectory(t: TestContext): Promise<string> {
  const directory = await fs.mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => fs.rm(directory, { recursive: true }));
  return directory;
}
