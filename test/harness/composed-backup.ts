/**
 * The parts of a base backup as a server sends them, composed by a test: archives whose members
 * may be anything, and manifests.
 */
import { createHash } from 'node:crypto';
import { formatCrc } from '../../src/postgres/backup-manifest.ts';
import { crc32c } from '../../src/wal/crc32c.ts';

export interface TarMember {
  /** One character for each byte. */
  name: string;
  /** The type flag: a file if not given. */
  type?: 'file' | 'hard-link' | 'symlink' | 'device' | 'directory' | 'extended-header';
  mode?: number;
  content?: string | Buffer;
  linkname?: string;
}

const BLOCK_BYTES = 512;
const TYPE_FLAGS = {
  file: '0',
  'hard-link': '1',
  symlink: '2',
  device: '3',
  directory: '5',
  'extended-header': 'x',
};

/** The members one after the other, without the empty blocks that may end an archive. */
export function tarArchive(members: readonly TarMember[]): Buffer {
  return Buffer.concat(members.flatMap((member) => encodeMember(member)));
}

/** The two blocks with which PostgreSQL ends an archive since 15. */
export const TAR_END = Buffer.alloc(2 * BLOCK_BYTES);

function encodeMember({
  name,
  type = 'file',
  mode = 0o600,
  content = '',
  linkname = '',
}: TarMember) {
  const body = Buffer.from(content);
  const header = Buffer.alloc(BLOCK_BYTES);
  const octal = (value: number, digits: number): string => value.toString(8).padStart(digits, '0');
  header.write(name, 0, 100, 'latin1');
  header.write(octal(mode, 7), 100);
  header.write(octal(26, 7), 108);
  header.write(octal(26, 7), 116);
  header.write(octal(body.length, 11), 124);
  header.write(octal(1_700_000_000, 11), 136);
  header.write(TYPE_FLAGS[type], 156);
  header.write(linkname, 157, 100, 'latin1');
  header.write('ustar\u000000', 257);
  header.fill(' ', 148, 156);
  header.write(
    `${octal(
      header.reduce((sum, byte) => sum + byte, 0),
      6,
    )}\0 `,
    148,
  );
  return [header, body, Buffer.alloc(-body.length & (BLOCK_BYTES - 1))];
}

export interface ManifestOptions {
  /** Makes it one of version 2. */
  systemIdentifier?: bigint | undefined;
}

/** The manifest of `files`: paths with one character for each byte, and contents. */
export function backupManifest(
  files: Readonly<Record<string, string | Buffer>>,
  { systemIdentifier }: ManifestOptions = {},
): Buffer {
  const entries = Object.entries(files).map(([path, content]) => manifestEntry(path, content));
  return signedManifest(
    systemIdentifier === undefined
      ? ['{ "PostgreSQL-Backup-Manifest-Version": 1,']
      : ['{ "PostgreSQL-Backup-Manifest-Version": 2,', `"System-Identifier": ${systemIdentifier},`],
    ['"Files": [', ...entries.map((entry, i) => (i < entries.length - 1 ? `${entry},` : entry))],
    ['],', '"WAL-Ranges": ['],
    ['{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000100" }', '],'],
  );
}

/** `lines`, and the checksum over them. */
export function signedManifest(...lines: readonly (readonly string[])[]): Buffer {
  const text = lines.flat().join('\n') + '\n';
  const checksum = createHash('sha256').update(text).digest('hex');
  return Buffer.from(`${text}"Manifest-Checksum": "${checksum}"}\n`);
}

export function manifestEntry(path: string, content: string | Buffer): string {
  const bytes = Buffer.from(content);
  const isPlain = /^[\x20-\x7e]*$/.test(path);
  const name = isPlain
    ? `"Path": ${JSON.stringify(path)}`
    : `"Encoded-Path": "${Buffer.from(path, 'latin1').toString('hex')}"`;
  const facts = `"Size": ${bytes.length}, "Last-Modified": "2026-11-23 16:36:44 GMT"`;
  const checksum = `"Checksum-Algorithm": "CRC32C", "Checksum": "${formatCrc(crc32c(bytes))}"`;
  return `{ ${name}, ${facts}, ${checksum} }`;
}
