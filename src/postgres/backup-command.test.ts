/** The command for a base backup, and the rows that it is answered with. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  backupForm,
  formatBackupCommand,
  parseBackupContents,
  parseBackupPosition,
} from './backup-command.ts';

type Row = (string | null)[];

const rowsOf = (...rows: Row[]): (Buffer | null)[][] =>
  rows.map((row) => row.map((value) => (value === null ? null : Buffer.from(value))));

test('each server is asked in its own words, a label with quotes too', () => {
  const table: [number, string, string][] = [
    [130_023, 'a', `BASE_BACKUP LABEL 'a' PROGRESS FAST NOWAIT MANIFEST 'yes'`],
    [140_000, `it's`, `BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MANIFEST 'yes'`],
    [
      150_000,
      `it's`,
      `BASE_BACKUP (LABEL 'it''s', PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'yes')`,
    ],
    [
      190_000,
      'a',
      `BASE_BACKUP (LABEL 'a', PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'yes')`,
    ],
  ];
  for (const [version, label, command] of table) {
    assert.equal(formatBackupCommand(label, backupForm(version)), command);
  }
});

test('a position is one row of an LSN, padded or not, and a timeline', () => {
  const position = { lsn: 0x2000028n, timeline: 3 };
  assert.deepEqual(parseBackupPosition(rowsOf(['0/2000028', '3'])), position);
  assert.deepEqual(parseBackupPosition(rowsOf(['0/02000028', '3'])), position);
  for (const rows of [
    rowsOf(),
    rowsOf(['0/2000028']),
    rowsOf(['0/2000028', null]),
    rowsOf(['0/2000028', 'x']),
    rowsOf(['0/2000028', '3'], ['0/2000028', '3']),
  ]) {
    assert.throws(() => parseBackupPosition(rows), { sqlstate: '08P01' });
  }
  assert.throws(() => parseBackupPosition(rowsOf(['here', '3'])), { sqlstate: '22P02' });
});

test('the tablespaces come with their sizes in kB, the data directory last', () => {
  assert.deepEqual(parseBackupContents(rowsOf(['16385', '/srv/ts', '7'], [null, null, '22000'])), {
    tablespaces: [{ oid: '16385', location: '/srv/ts', bytes: 7 * 1024 }],
    dataDirectoryBytes: 22_000 * 1024,
  });
});

test('a list of tablespaces that no server sends is refused', () => {
  const data: Row = [null, null, '1'];
  const lists: Row[][] = [
    [],
    [['16385', '/srv/ts', '7']],
    [data, data],
    [['x', '/srv/ts', '7'], data],
    [['0', '/srv/ts', '7'], data],
    [['16385', null, '7'], data],
    [['16385', '/srv/ts', null], data],
    [['16385', '/srv/ts', '-7'], data],
    [['16385', '/srv/a', '7'], ['16385', '/srv/b', '7'], data],
    [[null, null, null]],
    [[null]],
  ];
  for (const rows of lists) {
    assert.throws(() => parseBackupContents(rowsOf(...rows)), { sqlstate: '08P01' });
  }
});

test('a tablespace inside the data directory is refused by its name', () => {
  assert.throws(
    () => parseBackupContents(rowsOf(['16385', 'pg_tblspc/16385', '7'], [null, null, '1'])),
    {
      sqlstate: '0A000',
      message: 'tablespace 16385 at "pg_tblspc/16385" is inside the data directory',
    },
  );
});
