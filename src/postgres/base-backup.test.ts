/** Whole base backups, from a server that the test plays, and all the ways for one to break off. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import {
  TAR_END,
  type TarMember,
  backupManifest,
  tarArchive,
} from '../../test/harness/composed-backup.ts';
import { ManualClock, settle } from '../../test/harness/manual-clock.ts';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { waitFor } from '../../test/harness/wait.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  COPY_DONE,
  encodeCommandComplete,
  encodeCopyOutResponse,
  encodeDataRow,
  encodeReadyForQuery,
  encodeRowDescription,
} from '../protocol/backend-messages.ts';
import { cstring, message } from '../protocol/bytes.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { encodeQuery } from '../protocol/frontend-messages.ts';
import { type BaseBackupOptions, takeBaseBackup } from './base-backup.ts';

const SYSTEM_IDENTIFIER = 7_301_234_567_890_123_457n;

const LABEL = 'START WAL LOCATION: 0/2000028';
const TABLE = Buffer.alloc(100_000, 'table');

const DATA: TarMember[] = [
  { name: 'backup_label', content: LABEL },
  { name: 'base/', type: 'directory' },
  { name: 'base/1259', content: TABLE },
  { name: 'pg_tblspc/', type: 'directory' },
  { name: 'pg_tblspc/16385', type: 'symlink', linkname: '/srv/ts' },
];
const TABLESPACE: TarMember[] = [
  { name: 'PG_18_202506291/', type: 'directory' },
  { name: 'PG_18_202506291/16386', content: 'rows' },
];
const FILES = {
  'pg_tblspc/16385/PG_18_202506291/16386': 'rows',
  backup_label: LABEL,
  'base/1259': TABLE,
};

for (const serverVersionNum of [140_000, 180_000]) {
  test(`a backup from server ${serverVersionNum} lands where it is to`, async (t) => {
    const { upstream, begin, root } = await connect(t);
    const progress: { doneBytes: number; totalBytes: number }[] = [];
    const taking = begin({ serverVersionNum, onProgress: (each) => progress.push(each) });
    await upstream.say(...answer(serverVersionNum));
    const { bytes, ...backup } = await taking;
    assert.deepEqual(backup, {
      start: 0x2000028n,
      timeline: 2,
      end: 0x2000100n,
      endTimeline: 3,
      tablespaces: [{ oid: '16385', location: join(root, 'ts'), existed: false }],
    });
    assert.equal(await fs.readFile(join(root, 'data/backup_label'), 'utf8'), LABEL);
    assert.deepEqual(await fs.readFile(join(root, 'data/backup_manifest')), manifest());
    assert.equal(await fs.readlink(join(root, 'data/pg_tblspc/16385')), join(root, 'ts'));
    const through = join(root, 'data/pg_tblspc/16385/PG_18_202506291/16386');
    assert.equal(await fs.readFile(through, 'utf8'), 'rows');
    // No time passes: told of are the beginning and the end.
    assert.equal(progress.length, 2);
    assert.deepEqual(progress.at(-1), { doneBytes: bytes, totalBytes: bytes });

    // It asked who the server is, then for the backup.
    const heard = upstream.heard().toString('latin1');
    assert.ok(heard.startsWith(encodeQuery('IDENTIFY_SYSTEM').toString('latin1')));
    assert.match(heard, /BASE_BACKUP .*LABEL 'test'/);
  });
}

// Its files were written, as root, into directories that the server's user could change already.
test('a backup for another user is his when all of it is there, and not before', async (t) => {
  if (process.geteuid?.() !== 0) return t.diagnostic('not tested: this is not root');
  const { upstream, begin, root } = await connect(t);
  const user = { uid: 65_534, gid: 65_533 };
  const taking = begin({ user });
  const told = answer(180_000);
  const end = told.splice(-3);
  await upstream.say(...told);
  const manifestFile = join(root, 'data/backup_manifest');
  await waitFor('the manifest', () => fs.stat(manifestFile).catch(() => undefined));
  for (const name of ['data', 'ts']) {
    const { uid, mode } = await fs.stat(join(root, name));
    assert.deepEqual([uid, mode & 0o777], [0, 0o700], name);
  }
  await upstream.say(...end);
  await taking;
  const names = await fs.readdir(root, { recursive: true });
  assert.ok(names.includes('data/base/1259'), names.join());
  for (const name of names) assert.equal((await fs.lstat(join(root, name))).uid, user.uid, name);
});

test('a backup that is cut off leaves nothing, and says how far it had come', async (t) => {
  const whole = Buffer.concat(answer(180_000));
  for (let length = 0; length < whole.length; length += 9973) {
    const { upstream, begin, root } = await connect(t);
    const taking = assert.rejects(begin(), {
      sqlstate: '08006',
      message: 'connection to upstream was lost during the base backup',
      detail: /^Nothing of it had come\.$|^\d+ (?:bytes|kB) of about \d+ kB had come\.$/,
      hint: 'Take the base backup again.',
    });
    await upstream.say(whole.subarray(0, length));
    upstream.hangUp();
    await taking;
    assert.deepEqual(await fs.readdir(root), []);
  }
});

test('the error of a server ends a backup at any time, in its own words', async (t) => {
  const promoted = new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'the standby was promoted during online backup',
    { hint: 'Try taking another online backup.' },
  );
  const messages = answer(180_000);
  for (let index = 0; index < messages.length; index += 1) {
    const { upstream, begin, root } = await connect(t);
    const { message: text, hint } = promoted;
    const taking = assert.rejects(begin(), { sqlstate: '55000', message: text, hint });
    await upstream.say(
      ...messages.slice(0, index),
      encodeErrorResponse(promoted, 'ERROR'),
      encodeReadyForQuery(),
    );
    await taking;
    assert.deepEqual(await fs.readdir(root), []);
  }
});

test('a stopped backup ends with the reason and leaves nothing', async (t) => {
  const messages = answer(180_000);
  for (const said of [0, 1, 4, 12, 14, 16, messages.length - 1]) {
    const { upstream, begin, root } = await connect(t);
    const stop = new AbortController();
    const reason = new Error('enough');
    const taking = assert.rejects(begin({ signal: stop.signal }), (error) => error === reason);
    await upstream.say(...messages.slice(0, said));
    stop.abort(reason);
    await taking;
    assert.deepEqual(await fs.readdir(root), []);
  }

  // Also when all has come and is synced, which takes longer than this.
  const { upstream, begin, root } = await connect(t);
  const stop = new AbortController();
  const taking = assert.rejects(begin({ signal: stop.signal }), /late/);
  await upstream.say(...messages.slice(0, -1));
  const kept = join(root, 'data/backup_manifest');
  await waitFor('all of the manifest', async () => {
    return (await fs.stat(kept).catch(() => undefined))?.size === manifest().length;
  });
  await settle();
  const said = upstream.say(messages.at(-1) as Buffer);
  for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
  stop.abort(new Error('late'));
  await taking;
  await said;
  assert.deepEqual(await fs.readdir(root), []);

  // And before it begins.
  await assert.rejects(begin({ signal: AbortSignal.abort(new Error('before')) }), /before/);
});

test('a backup that does not match its manifest is removed', async (t) => {
  const other = tarArchive([...DATA, { name: 'base/1260', content: 'not in the manifest' }]);
  for (const keepOnFailure of [false, true]) {
    const { upstream, begin, root } = await connect(t);
    const taking = assert.rejects(begin({ keepOnFailure }), {
      sqlstate: 'XX001',
      message: 'base backup does not match its manifest',
      detail: 'File "base/1260" is not in the manifest.',
    });
    await upstream.say(...answer(180_000, other));
    await taking;
    assert.deepEqual(await fs.readdir(root), keepOnFailure ? ['data', 'ts'] : []);
  }
});

test('directories that were there are emptied and stay', async (t) => {
  const { upstream, begin, root } = await connect(t);
  await fs.mkdir(join(root, 'ts'));
  const taking = assert.rejects(begin(), { sqlstate: '08P01' });
  await upstream.say(...answer(180_000, Buffer.alloc(1024, 'no archive')));
  await taking;
  assert.deepEqual(await fs.readdir(root, { recursive: true }), ['ts']);
});

test('what is wrong with the targets is said while they are as they were', async (t) => {
  const { upstream, begin, root } = await connect(t);
  await fs.mkdir(join(root, 'data'));
  await fs.writeFile(join(root, 'data', 'file'), 'precious');
  const taking = assert.rejects(begin(), { sqlstate: '58P02' });
  await upstream.say(...answer(180_000));
  await taking;
  assert.deepEqual(await fs.readdir(root, { recursive: true }), ['data', 'data/file']);
});

test('an answer to another command is refused', async (t) => {
  for (const answers of [
    [...row(['not a number']), encodeReadyForQuery()],
    [...identity(), encodeCopyOutResponse()],
    [...identity(), encodeReadyForQuery()],
    [...answer(180_000).slice(0, -5), ...row(['0/2000100']), encodeReadyForQuery()],
  ]) {
    const { upstream, begin, root } = await connect(t);
    const taking = assert.rejects(begin(), { sqlstate: '08P01' });
    await upstream.say(...answers);
    await taking;
    assert.deepEqual(await fs.readdir(root), []);
  }
});

/** All that a server answers, to IDENTIFY_SYSTEM and to BASE_BACKUP. */
function answer(serverVersionNum: number, data = tarArchive(DATA)): Buffer[] {
  const tablespace = tarArchive(TABLESPACE);
  const copy = serverVersionNum < 150_000 ? copyEach : typedCopy;
  return [
    ...identity(),
    ...row(['0/2000028', '2']),
    encodeRowDescription([]),
    encodeDataRow(['16385', '/srv/ts', '3']),
    encodeDataRow([null, null, '100']),
    encodeCommandComplete('SELECT'),
    ...copy(tablespace, data),
    ...row(['0/2000100', '3']),
    encodeCommandComplete('BASE_BACKUP'),
    encodeReadyForQuery(),
  ];
}

function identity(): Buffer[] {
  const columns = [SYSTEM_IDENTIFIER.toString(), '2', '0/2000028', null];
  return [...row(columns), encodeReadyForQuery()];
}

function row(columns: (string | null)[]): Buffer[] {
  return [encodeRowDescription([]), encodeDataRow(columns), encodeCommandComplete('SELECT')];
}

function manifest(): Buffer {
  return backupManifest(FILES, { systemIdentifier: SYSTEM_IDENTIFIER });
}

function copyEach(tablespace: Buffer, data: Buffer): Buffer[] {
  return [tablespace, data, manifest()].flatMap((content) => [
    encodeCopyOutResponse(),
    ...piecesOf(content).map((piece) => message('d', piece)),
    COPY_DONE,
  ]);
}

function typedCopy(tablespace: Buffer, data: Buffer): Buffer[] {
  const typed = (type: string, ...rest: Buffer[]): Buffer =>
    message('d', Buffer.from(type), ...rest);
  const content = (bytes: Buffer): Buffer[] => piecesOf(bytes).map((piece) => typed('d', piece));
  return [
    encodeCopyOutResponse(),
    typed('n', cstring('16385.tar'), cstring('/srv/ts')),
    ...content(Buffer.concat([tablespace, TAR_END])),
    typed('n', cstring('base.tar'), cstring('')),
    ...content(Buffer.concat([data, TAR_END])),
    typed('p', Buffer.alloc(8)),
    typed('m'),
    ...content(manifest()),
    COPY_DONE,
  ];
}

function piecesOf(content: Buffer): Buffer[] {
  const pieces: Buffer[] = [];
  for (let at = 0; at < content.length; at += 32_768) {
    pieces.push(content.subarray(at, at + 32_768));
  }
  return pieces;
}

/** A connection, and a directory to back up into `data` and `ts` in it. */
async function connect(t: TestContext) {
  const root = await fs.realpath(await fs.mkdtemp(join(tmpdir(), 'backup-')));
  t.after(() => fs.rm(root, { recursive: true, force: true }));
  const upstream = new MemoryUpstream();
  const client = await upstream.connect();
  const begin = (options: Partial<BaseBackupOptions & { keepOnFailure: boolean }> = {}) =>
    takeBaseBackup(client, {
      serverVersionNum: 180_000,
      directory: join(root, 'data'),
      tablespaceMapping: new Map([['/srv/ts', join(root, 'ts')]]),
      user: undefined,
      label: 'test',
      clock: new ManualClock(),
      signal: new AbortController().signal,
      keepOnFailure: false,
      ...options,
    });
  await settle();
  return { upstream, begin, root };
}
