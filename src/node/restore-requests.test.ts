/** Who asks to restore is answered when all is there, and not before. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { createLog } from '../base/log.ts';
import { answerRestoreRequests } from './restore-requests.ts';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('a request is taken away when all is there, one after the other', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'restore-requests-'));
  t.after(() => rm(directory, { recursive: true }));
  const path = join(directory, 'restoring');
  const stop = new AbortController();
  const asked: boolean[] = [];
  let complete = (): void => {};
  const untilComplete = (): Promise<void> =>
    new Promise((resolve) => {
      asked.push(existsSync(path));
      complete = resolve;
    });
  const log = createLog(() => assert.fail('nothing is logged'), { minimum: () => 'debug' });
  const answering = answerRestoreRequests({ path, untilComplete, log }, stop.signal);
  for (const content of ['first', 'second']) {
    asked.splice(0);
    await writeFile(path, content);
    while (!asked.includes(true)) {
      complete();
      await turn();
    }
    assert.equal(existsSync(path), true);
    while (existsSync(path)) {
      complete();
      await turn();
    }
  }
  stop.abort(new Error('stop'));
  complete();
  await assert.rejects(answering, { message: 'stop' });
});
