/** What is told of a backup under way, and how often. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ManualClock } from '../../test/harness/manual-clock.ts';
import { BackupProgress, type Progress } from './backup-progress.ts';

test('progress is told ten times a second, and at the end', async () => {
  const clock = new ManualClock();
  const told: Progress[] = [];
  const progress = new BackupProgress(1000, clock, (each) => told.push(each));
  for (let piece = 0; piece < 50; piece += 1) {
    progress.add(10);
    await clock.pass(10);
  }
  assert.deepEqual(
    told.map(({ doneBytes }) => doneBytes),
    [10, 110, 210, 310, 410],
  );
  progress.finish();
  assert.deepEqual(told.at(-1), { doneBytes: 500, totalBytes: 500 });
});

test('a total that was reckoned too small grows', () => {
  const told: Progress[] = [];
  const progress = new BackupProgress(100, new ManualClock(), (each) => told.push(each));
  progress.add(150);
  assert.deepEqual(told, [{ doneBytes: 150, totalBytes: 150 }]);
});
