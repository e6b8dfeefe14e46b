/** Who asks to restore is answered when all is there, and not before. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, rmdir, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { type LogEntry, createLog } from '../base/log.ts';
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

// A system without a watch to give, or PostgreSQL's user with a directory there, ended the node.
test('what cannot be watched or taken away is told once, and ends nothing', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'restore-requests-'));
  t.after(() => rm(directory, { recursive: true }));
  const entries: LogEntry[] = [];
  const log = createLog((entry) => entries.push(entry), { minimum: () => 'debug' });
  const untilComplete = (): Promise<void> => Promise.resolve();
  const answer = (path: string, signal: AbortSignal): Promise<void> =>
    answerRestoreRequests({ path, untilComplete, log }, signal);

  const stop = new AbortController();
  const unwatched = answer(join(directory, 'nowhere', 'restoring'), stop.signal);
  const path = join(directory, 'restoring');
  await mkdir(path);
  const watched = answer(path, stop.signal);
  while (entries.length < 2) await turn();
  const messages = entries.map(({ level, message }) => `${level} ${message}`);
  const COULD_NOT = /^warning could not answer the restore_command of the attached server: /;
  for (const message of messages) assert.match(message, COULD_NOT);

  // Where there is a watch, the next request is answered.
  await rmdir(path);
  await writeFile(path, '');
  while (existsSync(path)) await turn();
  assert.equal(entries.length, 2);
  stop.abort(new Error('stop'));
  for (const ended of [unwatched, watched]) await assert.rejects(ended, { message: 'stop' });
});
