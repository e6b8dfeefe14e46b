/** Archives of a base backup on disk: those that a server sends, and those that none would. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { TAR_END, type TarMember, tarArchive } from '../../test/harness/composed-backup.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { crc32c } from '../wal/crc32c.ts';
import { type Unpacking, unpackArchive } from './backup-unpacking.ts';
import { DurableFiles } from './durable-files.ts';

const LONG = Buffer.from(Array.from({ length: 200_000 }, (_, i) => i % 251));

const DATA: TarMember[] = [
  { name: 'backup_label', content: 'START WAL LOCATION' },
  { name: 'base/', type: 'directory', mode: 0o700 },
  { name: 'base/1/', type: 'directory', mode: 0o700 },
  { name: 'base/1/1259', content: LONG },
  { name: 'base/1/empty' },
  { name: 'caf\xe9', content: 'a name that is not UTF-8' },
  { name: 'pg_tblspc/', type: 'directory' },
  { name: 'pg_tblspc/16385', type: 'symlink', linkname: '/srv/there' },
  { name: 'pg_tblspc/16390', type: 'symlink', linkname: '/srv/made-meanwhile' },
  { name: 'pg_wal/', type: 'directory' },
  { name: './pg_wal/archive_status/', type: 'directory' },
];

test('an archive in pieces of any length, ended or not, becomes its files', async (t) => {
  for (const archive of [tarArchive(DATA), Buffer.concat([tarArchive(DATA), TAR_END])]) {
    for (const pieceBytes of [100, 511, 32_768, archive.length]) {
      const { unpacking, directory } = await makeUnpacking(t);
      await unpackArchive(piecesOf(archive, pieceBytes), unpacking);
      await unpacking.files.finish();
      assert.deepEqual(await fs.readFile(join(directory, 'base/1/1259')), LONG);
      assert.deepEqual(await listTree(Buffer.from(directory)), [
        'backup_label',
        'base',
        'base/1',
        'base/1/1259',
        'base/1/empty',
        'caf\xe9',
        'pg_tblspc',
        'pg_tblspc/16385',
        'pg_wal',
        'pg_wal/archive_status',
      ]);
      assert.equal(await fs.readlink(join(directory, 'pg_tblspc/16385')), '/srv/here');
      assert.deepEqual(
        [...unpacking.received].map(([path, { bytes }]) => [path, bytes]),
        [
          ['backup_label', 18],
          ['base/1/1259', LONG.length],
          ['base/1/empty', 0],
          ['caf\xe9', 24],
        ],
      );
      assert.equal(unpacking.received.get('base/1/1259')?.crc, crc32c(LONG));
    }
  }
});

test('files of a tablespace have the names that the manifest gives them', async (t) => {
  const { unpacking } = await makeUnpacking(t);
  const archive = tarArchive([
    { name: 'PG_18_202506291/', type: 'directory' },
    { name: 'PG_18_202506291/tablespace_map', content: 'one of its tables' },
  ]);
  const inTablespace = { ...unpacking, links: undefined, manifestPrefix: 'pg_tblspc/16385/' };
  await unpackArchive(piecesOf(archive), inTablespace);
  assert.deepEqual(
    [...unpacking.received.keys()],
    ['pg_tblspc/16385/PG_18_202506291/tablespace_map'],
  );
  await unpacking.files.finish();
});

test('nobody but the owner gets in, and the group only where the server lets it', async (t) => {
  const umask = process.umask(0);
  t.after(() => process.umask(umask));
  const { unpacking, directory } = await makeUnpacking(t);
  const table: [TarMember, number][] = [
    [{ name: 'a', mode: 0o600 }, 0o600],
    [{ name: 'b', mode: 0o640 }, 0o640],
    [{ name: 'c', mode: 0o4777 }, 0o740],
    [{ name: 'd/', type: 'directory', mode: 0o750 }, 0o750],
    [{ name: 'e/', type: 'directory', mode: 0o1777 }, 0o750],
    [{ name: 'f/', type: 'directory', mode: 0 }, 0o700],
  ];
  await unpackArchive(piecesOf(tarArchive(table.map(([member]) => member))), unpacking);
  await unpacking.files.finish();
  for (const [{ name }, mode] of table) {
    assert.equal((await fs.stat(join(directory, name))).mode & 0o7777, mode, name);
  }
});

test('a member outside the directories of its archive is refused', async (t) => {
  for (const name of [
    '/etc/passwd',
    '../outside',
    './../outside',
    'base/../../outside',
    'base/..',
    'base/./x',
    '..',
    '.',
    './',
    'nowhere/x',
    'pg_tblspc/16385/PG_18_202506291',
    'caf\xe9/x',
  ]) {
    for (const type of ['file', 'directory', 'symlink'] as const) {
      await refused(t, [...DATA, { name, type, linkname: '/srv/there' }], /has no place in it$/);
    }
  }
});

test('a link elsewhere, a link to a file and a device are refused', async (t) => {
  const made = { name: 'pg_tblspc/', type: 'directory' } as const;
  for (const member of [
    { name: 'base', type: 'symlink', linkname: '/srv/there' },
    { name: 'pg_tblspc/x', type: 'symlink', linkname: '/srv/there' },
    { name: 'pg_tblspc/0', type: 'symlink', linkname: '/srv/there' },
    { name: 'x', type: 'hard-link', linkname: '/etc/passwd' },
    { name: 'x', type: 'device' },
  ] as const) {
    await refused(t, [made, member], /has no place in it$/);
  }
  const { unpacking } = await makeUnpacking(t);
  const link: TarMember = { name: 'pg_tblspc/16385', type: 'symlink', linkname: '/srv/there' };
  await assert.rejects(
    unpackArchive(piecesOf(tarArchive([made, link])), { ...unpacking, links: undefined }),
    { sqlstate: '08P01' },
  );
});

test('a tablespace map, which would lead a starting server astray, is refused', async (t) => {
  for (const name of ['tablespace_map', './tablespace_map', 'backup_manifest']) {
    await refused(t, [{ name, content: '16385 /etc' }], /has no place in it$/);
  }
});

// One character stands for one byte, so that a name of others would end up as another name.
test('a name that an extended header gives in other characters is refused', async (t) => {
  for (const name of ['..\u012f..\u012foutside', '\u012fetc', '../outside']) {
    const line = ` path=${name}\n`;
    const bytes = Buffer.byteLength(line) + 2;
    const header = { name: 'x', type: 'extended-header', content: `${bytes}${line}` } as const;
    await refused(t, [header, { name: 'x', content: 'y' }], /has no place in it$/);
  }
});

test('a file or directory that comes twice is refused', async (t) => {
  for (const member of [
    { name: 'backup_label', content: 'another' },
    { name: 'base/', type: 'directory' },
    { name: 'base', content: 'a file in place of a directory' },
  ] as const) {
    const { unpacking, directory } = await makeUnpacking(t);
    await assert.rejects(unpackArchive(piecesOf(tarArchive([...DATA, member])), unpacking), {
      sqlstate: '58P02',
      message: /^could not create (?:file|directory) ".*": File exists$/,
    });
    await unpacking.files.abandon();
    const label = await fs.readFile(join(directory, 'backup_label'), 'utf8');
    assert.equal(label, 'START WAL LOCATION');
  }
});

test('what is no archive, or one that is cut within a member, is refused', async (t) => {
  const whole = tarArchive([{ name: 'a', content: Buffer.alloc(1000, 'a') }]);
  for (let length = 1; length < whole.length; length += 73) {
    await refused(t, whole.subarray(0, length), /^base backup has an invalid archive$/);
  }
  await refused(t, Buffer.alloc(4096, 'x'), /^base backup has an invalid archive$/);
});

test('when the archive ends in an error, that is the error', async (t) => {
  const archive = tarArchive(DATA);
  for (const length of [0, 100, 600, 5000, 150_000, archive.length]) {
    const lost = new WalcadeError(SQLSTATE.CONNECTION_FAILURE, 'gone');
    async function* broken(): AsyncGenerator<Buffer> {
      yield* piecesOf(archive.subarray(0, length), 4096);
      throw lost;
    }
    const { unpacking } = await makeUnpacking(t);
    await assert.rejects(unpackArchive(broken(), unpacking), (error) => error === lost);
    await unpacking.files.abandon();
  }
});

test('a disk that refuses ends it at once, though no more of the archive comes', async (t) => {
  const { unpacking, directory } = await makeUnpacking(t);
  await fs.writeFile(join(directory, 'backup_label'), 'there already');
  let giveUp = (): void => {};
  const givenUp = new Promise<void>((resolve) => {
    giveUp = resolve;
  });
  async function* stalled(): AsyncGenerator<Buffer> {
    yield tarArchive(DATA).subarray(0, 1024);
    await givenUp;
    throw new WalcadeError(SQLSTATE.CONNECTION_FAILURE, 'closed');
  }
  await assert.rejects(unpackArchive(stalled(), { ...unpacking, giveUp }), { sqlstate: '58P02' });
});

async function refused(
  t: TestContext,
  archive: readonly TarMember[] | Buffer,
  message: RegExp,
): Promise<void> {
  const { unpacking, directory, root } = await makeUnpacking(t);
  const bytes = Buffer.isBuffer(archive) ? archive : tarArchive(archive);
  await assert.rejects(unpackArchive(piecesOf(bytes), unpacking), { sqlstate: '08P01', message });
  await unpacking.files.abandon();
  // Nothing lies beside the directory.
  assert.deepEqual(await fs.readdir(root), [directory.slice(root.length + 1)]);
}

async function makeUnpacking(
  t: TestContext,
): Promise<{ unpacking: Unpacking; root: string; directory: string }> {
  const root = await fs.mkdtemp(join(tmpdir(), 'unpacking-'));
  t.after(() => fs.rm(root, { recursive: true, force: true }));
  const directory = join(root, 'data');
  await fs.mkdir(directory);
  const unpacking = {
    directory,
    links: new Map([['16385', '/srv/here']]),
    manifestPrefix: '',
    files: new DurableFiles(undefined),
    received: new Map(),
    giveUp: () => {},
  };
  return { unpacking, root, directory };
}

/** The paths of all below a directory, one character for each byte. */
async function listTree(directory: Buffer): Promise<string[]> {
  const paths: string[] = [];
  for (const entry of await fs.readdir(directory, { encoding: 'buffer', withFileTypes: true })) {
    const name = entry.name.toString('latin1');
    paths.push(name);
    if (!entry.isDirectory()) continue;
    const inside = await listTree(Buffer.concat([directory, Buffer.from('/'), entry.name]));
    paths.push(...inside.map((path) => `${name}/${path}`));
  }
  return paths.toSorted();
}

/** Pieces that come into the same memory, as those of a connection do. */
async function* piecesOf(bytes: Buffer, pieceBytes = 32_768): AsyncGenerator<Buffer> {
  const piece = Buffer.alloc(pieceBytes);
  for (let at = 0; at < bytes.length; at += pieceBytes) {
    const length = bytes.copy(piece, 0, at, at + pieceBytes);
    yield piece.subarray(0, length);
  }
}
