/** BASE_BACKUP: what pg_basebackup sends to each version, and what is refused. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type BaseBackup, backupTarget, parseReplicationCommand } from './replication-command.ts';

const V14 = 140_023;
const V15 = 150_018;
const V17 = 170_010;

function parse(text: string, serverVersionNum: number): BaseBackup {
  const command = parseReplicationCommand(text, serverVersionNum);
  assert.ok(command.kind === 'base-backup');
  return command;
}

const options = (text: string, version: number): unknown =>
  parse(text, version).options.map(({ name, value }) => [name, value]);

test('what pg_basebackup sends to 15 and later is understood, double blanks included', () => {
  const text =
    "BASE_BACKUP ( LABEL 'pg_basebackup base backup',  PROGRESS,  CHECKPOINT 'fast',  " +
    "WAIT 0,  MANIFEST 'yes',  TARGET 'client')";
  assert.deepEqual(parse(text, V15), {
    kind: 'base-backup',
    options: [
      { name: 'label', value: 'pg_basebackup base backup' },
      { name: 'progress', value: true },
      { name: 'checkpoint', value: 'fast' },
      { name: 'wait', value: 0 },
      { name: 'manifest', value: 'yes' },
      { name: 'target', value: 'client' },
    ],
    text,
  });
});

test('what pg_basebackup sends to 14 is understood under the names of 15', () => {
  const text =
    "BASE_BACKUP LABEL 'it''s' PROGRESS FAST  NOWAIT MAX_RATE 32 WAL TABLESPACE_MAP " +
    "NOVERIFY_CHECKSUMS MANIFEST 'yes' MANIFEST_CHECKSUMS 'SHA256'";
  assert.deepEqual(options(text, V14), [
    ['label', "it's"],
    ['progress', true],
    ['checkpoint', 'fast'],
    ['wait', 0],
    ['max_rate', 32],
    ['wal', true],
    ['tablespace_map', true],
    ['verify_checksums', 0],
    ['manifest', 'yes'],
    ['manifest_checksums', 'SHA256'],
  ]);
});

test('a backup needs no options', () => {
  assert.deepEqual(options('BASE_BACKUP', V14), []);
  assert.deepEqual(options('BASE_BACKUP;', V17), []);
});

test('an option name may be bare in either case, quoted, or a keyword', () => {
  assert.deepEqual(options('BASE_BACKUP (label a, "progress" on, WAIT)', V15), [
    ['label', 'a'],
    ['progress', 'on'],
    ['wait', true],
  ]);
});

test('the syntax of the other era is a syntax error', () => {
  const errors: [string, number][] = [
    ["BASE_BACKUP (LABEL 'x')", V14],
    ['BASE_BACKUP FAST', V15],
    ['BASE_BACKUP ()', V15],
    ['BASE_BACKUP (WAL,)', V15],
    ['BASE_BACKUP (WAL WAIT)', V15],
    ['BASE_BACKUP LABEL x', V14],
    ["BASE_BACKUP MAX_RATE '1'", V14],
    ['BASE_BACKUP fast', V14],
  ];
  for (const [text, version] of errors) {
    assert.throws(() => parse(text, version), { sqlstate: '42601', message: 'syntax error' }, text);
  }
});

test('an option that does not exist, or occurs twice, is refused', () => {
  const errors: [string, number, string][] = [
    ['BASE_BACKUP (bogus)', V15, 'unrecognized base backup option: "bogus"'],
    ['BASE_BACKUP ("LABEL" a)', V15, 'unrecognized base backup option: "LABEL"'],
    ['BASE_BACKUP (INCREMENTAL)', V15, 'unrecognized base backup option: "incremental"'],
    ['BASE_BACKUP (WAL, wal 0)', V17, 'duplicate option "wal"'],
    ['BASE_BACKUP NOWAIT NOWAIT', V14, 'duplicate option "nowait"'],
  ];
  for (const [text, version, message] of errors) {
    assert.throws(() => parse(text, version), { sqlstate: '42601', message }, text);
  }
  assert.deepEqual(options('BASE_BACKUP (INCREMENTAL)', V17), [['incremental', true]]);
});

test('the target is the client unless another is named', () => {
  assert.equal(backupTarget(parse('BASE_BACKUP FAST', V14)), 'client');
  assert.equal(backupTarget(parse('BASE_BACKUP', V17)), 'client');
  assert.equal(backupTarget(parse("BASE_BACKUP (TARGET 'blackhole')", V17)), 'blackhole');
  assert.throws(() => backupTarget(parse('BASE_BACKUP (TARGET)', V17)), {
    sqlstate: '42601',
    message: 'target requires a parameter',
  });
});
