/** Manifests: as PostgreSQL writes them, cut, altered, and such that do not fit what has come. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  backupManifest,
  manifestEntry,
  signedManifest,
} from '../../test/harness/composed-backup.ts';
import { crc32c } from '../wal/crc32c.ts';
import { ManifestComparison, type ReceivedFiles } from './backup-manifest.ts';

const SYSTEM_IDENTIFIER = 7_301_234_567_890_123_457n;

/** As pg_basebackup of 15.18 has kept it, less most of its files. */
const RECORDED = `{ "PostgreSQL-Backup-Manifest-Version": 1,
"Files": [
{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2026-11-23 16:36:41 GMT", \
"Checksum-Algorithm": "CRC32C", "Checksum": "8a744722" }
],
"WAL-Ranges": [
{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }
],
`;

const FILES = {
  backup_label: 'START WAL LOCATION: 0/2000028',
  'base/1/1259': Buffer.alloc(8192, 7),
  'pg_tblspc/16385/PG_18_202506291/5/16386': '',
  'caf\xe9': 'a name that is not UTF-8',
};

test('what has come matches a manifest that PostgreSQL wrote', () => {
  compare(signedManifest(RECORDED.trimEnd().split('\n')), received({ PG_VERSION: '15\n' }));
});

test('a manifest of either version matches, in pieces of any length', () => {
  for (const systemIdentifier of [undefined, SYSTEM_IDENTIFIER]) {
    const manifest = backupManifest(FILES, { systemIdentifier });
    for (const length of [1, 2, 7, 100, manifest.length]) {
      compare(manifest, received(FILES), length);
    }
  }
});

test('a manifest that is cut anywhere is refused', () => {
  const manifest = backupManifest(FILES, { systemIdentifier: SYSTEM_IDENTIFIER });
  for (let length = 0; length < manifest.length; length += 1) {
    assert.throws(() => compare(manifest.subarray(0, length), received(FILES)), {
      sqlstate: 'XX001',
      message: /^could not parse backup manifest/,
    });
  }
});

test('a manifest with any byte altered, or a line more or less, is refused', () => {
  const manifest = backupManifest(FILES, { systemIdentifier: SYSTEM_IDENTIFIER });
  for (let at = 0; at < manifest.length; at += 1) {
    const altered = Buffer.from(manifest);
    altered.writeUInt8((altered[at] as number) ^ 1, at);
    assert.throws(() => compare(altered, received(FILES)), { sqlstate: 'XX001' });
  }
  const lines = manifest.toString('latin1').trimEnd().split('\n');
  for (const [index, line] of lines.entries()) {
    for (const other of [lines.toSpliced(index, 1), lines.toSpliced(index, 0, line)]) {
      const altered = Buffer.from(`${other.join('\n')}\n`, 'latin1');
      assert.throws(() => compare(altered, received(FILES)), { sqlstate: 'XX001' });
    }
  }
});

test('each difference is told, the first five by name', () => {
  const manifest = backupManifest({ a: '1', b: '22', c: '333', é: '4' });
  assert.throws(() => compare(manifest, received({ a: '1', b: '2', c: '334', d: '5' })), {
    sqlstate: 'XX001',
    message: 'base backup does not match its manifest',
    detail: [
      'File "b" has 1 bytes, the manifest says 2.',
      `File "c" has checksum CRC32C ${crcOf('334')}, the manifest says CRC32C ${crcOf('333')}.`,
      'File "\ufffd" is missing.',
      'File "d" is not in the manifest.',
    ].join('\n'),
    hint: 'Take the base backup again.',
  });
  const many = Object.fromEntries(Array.from({ length: 12 }, (_, i) => [`file${i}`, '']));
  assert.throws(() => compare(backupManifest(many), received({})), {
    detail: /^File "file0" is missing\.\n(?:.*\n){4}7 more files differ\.$/,
  });
});

test('WAL and the manifest itself are in no manifest', () => {
  const files = { ...FILES, 'pg_wal/000000010000000000000002': 'WAL', backup_manifest: '{' };
  compare(backupManifest(FILES), received(files));
});

test('a manifest of another cluster is refused by both identifiers', () => {
  const manifest = backupManifest(FILES, { systemIdentifier: SYSTEM_IDENTIFIER + 1n });
  assert.throws(() => compare(manifest, received(FILES)), {
    sqlstate: 'XX001',
    message: 'manifest system identifier differs from that of the server',
    detail:
      "The manifest's identifier is 7301234567890123458, " +
      "the server's identifier is 7301234567890123457.",
  });
});

test('a manifest of a version to come, or with a checksum of its own, is refused', () => {
  const [first, ...lines] = RECORDED.trimEnd().split('\n');
  assert.throws(
    () => compare(signedManifest([first?.replace('1', '3') ?? ''], lines), received({})),
    {
      message: 'unexpected manifest version 3',
    },
  );
  const manifest = Buffer.from(`${RECORDED}"Manifest-Checksum": "${'0'.repeat(64)}"}\n`);
  assert.throws(() => compare(manifest, received({ PG_VERSION: '15\n' })), {
    message: 'manifest checksum mismatch',
  });
});

test('lines that are no files are refused, however well they are signed', () => {
  const entry = manifestEntry('a', '1');
  for (const line of [
    '',
    '{',
    'null',
    '[]',
    '7',
    '{}',
    entry.replace('"Path": "a"', '"Path": 1'),
    entry.replace('"Path": "a"', '"Encoded-Path": "6"'),
    entry.replace('"Path": "a"', '"Path": "a", "Encoded-Path": "61"'),
    entry.replace('"Size": 1', '"Size": "1"'),
    entry.replace('"Checksum"', '"Sum"'),
    entry.replace('"Path"', `"x": "${'x'.repeat(70_000)}", "Path"`),
  ]) {
    const lines = RECORDED.trimEnd().split('\n').toSpliced(2, 1, line);
    assert.throws(() => compare(signedManifest(lines), received({ a: '1' })), {
      sqlstate: 'XX001',
      message: 'could not parse backup manifest',
      detail: /^Line 3 is /,
    });
  }
});

function compare(manifest: Buffer, files: ReceivedFiles, pieceBytes = 64 * 1024): void {
  const comparison = new ManifestComparison(files, SYSTEM_IDENTIFIER);
  const piece = Buffer.alloc(pieceBytes);
  for (let at = 0; at < manifest.length; at += pieceBytes) {
    // The next piece comes into the same memory.
    const length = manifest.copy(piece, 0, at, at + pieceBytes);
    comparison.push(piece.subarray(0, length));
  }
  comparison.end();
}

function received(files: Readonly<Record<string, string | Buffer>>): ReceivedFiles {
  return new Map(
    Object.entries(files).map(([path, content]) => {
      const bytes = Buffer.from(content);
      return [path, { bytes: bytes.length, crc: crc32c(bytes) }];
    }),
  );
}

/** The checksum of an entry as the manifest has it. */
function crcOf(content: string): string {
  return /"Checksum": "(\w+)"/.exec(manifestEntry('x', content))?.[1] ?? '';
}
