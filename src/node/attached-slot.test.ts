/** The slot that a promotion has left on a standby is dropped in the end, and told of once. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type LogEntry, createLog } from '../base/log.ts';
import { LeftSlot } from './attached-slot.ts';

const NEVER = new AbortController().signal;

// It was tried once, and held WAL until the state of the server changed again.
test('a slot that cannot be dropped is told of once, and is no more when it can', async (t) => {
  const dataDirectory = await mkdtemp(join(tmpdir(), 'attached-slot-'));
  t.after(() => rm(dataDirectory, { recursive: true }));
  const entries: LogEntry[] = [];
  const log = createLog((entry) => entries.push(entry), { minimum: () => 'log' });
  let refusal: string | undefined;
  const path = join(dataDirectory, 'pg_replslot', 'walcade_node');
  const ask = async (): Promise<void> => {
    if (refusal !== undefined) throw new WalcadeError(SQLSTATE.OBJECT_IN_USE, refusal);
    await rm(path, { recursive: true });
  };
  const slot = new LeftSlot({ dataDirectory, ask, log });
  assert.equal(await slot.drop(NEVER), true);

  await mkdir(path, { recursive: true });
  for (const reason of ['it is active', 'it is active', 'the server ends']) {
    refusal = reason;
    assert.equal(await slot.drop(NEVER), false);
  }
  assert.deepEqual(
    entries.map(({ level, detail }) => `${level}: ${detail}`),
    ['warning: The server said: it is active.', 'warning: The server said: the server ends.'],
  );

  refusal = undefined;
  assert.equal(await slot.drop(NEVER), true);
  assert.equal(await slot.drop(NEVER), true);
  assert.equal(entries.length, 2);
});
