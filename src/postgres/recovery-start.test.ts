/** From where on a server needs WAL: by its backup's label as long as that is there. */
import assert from 'node:assert/strict';
import { copyFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseLsn } from '../wal/lsn.ts';
import { readControlData } from './control-data.ts';
import { readRecoveryStart } from './recovery-start.ts';

const PG_CONTROL = fileURLToPath(
  new URL('../../test/fixtures/control/18-standby', import.meta.url),
);

// A checkpoint while the backup was taken had the WAL between the two removed.
test('a backup needs WAL from its start on, whatever checkpoint pg_control is of', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-recovery-'));
  t.after(() => rm(directory, { recursive: true }));
  await mkdir(join(directory, 'global'));
  await copyFile(PG_CONTROL, join(directory, 'global', 'pg_control'));
  const { redo } = await readControlData(directory);
  assert.equal(await readRecoveryStart(directory), redo);
  const label = (start: string): string =>
    `START WAL LOCATION: ${start} (file 000000010000000000000001)\nSTART TIMELINE: 1\n`;
  await writeFile(join(directory, 'backup_label'), label('0/100028'));
  assert.equal(await readRecoveryStart(directory), parseLsn('0/100028'));
  await writeFile(join(directory, 'backup_label'), label('7/100028'));
  assert.equal(await readRecoveryStart(directory), redo);
});
