/**
 * An archive of a base backup, taken apart into the files of a directory.
 *
 * Its names are not trusted: a member lies in a directory that the same archive has made, so that
 * nothing is written outside the directory or through a link, and links are made at pg_tblspc/OID
 * only, to where the tablespace was put here. What a server never sends is refused.
 */
import { basename, dirname } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { type Extract, extract } from 'tar-stream';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReceivedFiles } from './backup-manifest.ts';
import type { DurableFiles } from './durable-files.ts';

export interface Unpacking {
  /** Where the members go: a directory that is there. */
  directory: string;
  /** The data directory's own archive has links to the tablespaces: their targets by OID. */
  links: ReadonlyMap<string, string> | undefined;
  /** What stands before a member's name in the manifest: nothing, or `pg_tblspc/16385/`. */
  manifestPrefix: string;
  files: DurableFiles;
  /** Each file's size and checksum are added. */
  received: ReceivedFiles;
  /** Called when it has come to nothing: `chunks` is to end. */
  giveUp: () => void;
}

/** Others than the owner get in as far as the sending server lets its group, and no further. */
const DIRECTORY_MODE_MASK = 0o750;
const FILE_MODE_MASK = 0o740;
const OWNER_ENTERS = 0o700;

/** Names are bytes, which need not be UTF-8: one character for each. */
const EXTRACT_OPTIONS = { highWaterMark: 64 * 1024, filenameEncoding: 'latin1' };

const TABLESPACE_LINK = /^pg_tblspc\/([1-9]\d{0,9})$/;

/**
 * With a tablespace map a starting server makes its links anew, to wherever the map says. We did
 * not ask for one.
 */
const NEVER_SENT = new Set(['tablespace_map', 'backup_manifest']);

/**
 * Unpacks the archive that `chunks` make; each chunk is valid until the next is asked for. Throws
 * 08P01 for what is no archive of a base backup, and the errors of `chunks` and of the disk.
 */
export async function unpackArchive(
  chunks: AsyncIterable<Buffer>,
  unpacking: Unpacking,
): Promise<void> {
  const archive = extract(EXTRACT_OPTIONS);
  const errors: { ofChunks?: unknown; ofArchive?: Error } = {};
  archive.on('error', (error) => {
    errors.ofArchive = error;
  });
  const [fed, unpacked] = await Promise.allSettled([
    pipeline(copyEach(chunks, errors), archive),
    takeMembers(archive, unpacking).catch((error: unknown) => {
      unpacking.giveUp();
      throw error;
    }),
  ]);
  const { ofArchive, ofChunks } = errors;
  if (ofArchive !== undefined && ofArchive !== ofChunks) {
    throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, 'base backup has an invalid archive', {
      detail: `Reading the archive for "${unpacking.directory}" ended with: ${ofArchive.message}.`,
      cause: ofArchive,
    });
  }
  if (ofArchive !== undefined) throw ofArchive;
  // That the archive was given up is the consequence, not the cause.
  if (unpacked.status === 'rejected') throw unpacked.reason;
  if (fed.status === 'rejected') throw fed.reason;
}

/** What the archive takes it may keep for a while. */
async function* copyEach(
  chunks: AsyncIterable<Buffer>,
  errors: { ofChunks?: unknown },
): AsyncGenerator<Buffer> {
  try {
    for await (const chunk of chunks) yield Buffer.from(chunk);
  } catch (error) {
    errors.ofChunks = error;
    throw error;
  }
}

async function takeMembers(archive: Extract, unpacking: Unpacking): Promise<void> {
  const directories = new Set(['.']);
  for await (const member of archive) {
    const { type, mode } = member.header;
    const name = checkedName(member.header.name, directories);
    if (type === 'file') {
      const content: AsyncIterable<unknown> = member;
      await takeFile(content as AsyncIterable<Uint8Array>, name, mode, unpacking);
      continue;
    }
    member.resume();
    if (type === 'directory') {
      const path = pathIn(unpacking.directory, name);
      await unpacking.files.makeDirectory(path, OWNER_ENTERS | (mode & DIRECTORY_MODE_MASK));
      directories.add(name);
    } else if (type === 'symlink') {
      await takeLink(name, unpacking);
    } else {
      throw refusal(name, `It is of type ${type}.`);
    }
  }
}

async function takeFile(
  content: AsyncIterable<Uint8Array>,
  name: string,
  mode: number,
  { directory, manifestPrefix, files, received }: Unpacking,
): Promise<void> {
  if (manifestPrefix === '' && NEVER_SENT.has(name)) {
    throw refusal(name, 'It was not asked for.');
  }
  const path = pathIn(directory, name);
  received.set(manifestPrefix + name, await files.makeFile(path, mode & FILE_MODE_MASK, content));
}

async function takeLink(name: string, { directory, links, files }: Unpacking): Promise<void> {
  const oid = TABLESPACE_LINK.exec(name)?.[1];
  if (links === undefined || oid === undefined) {
    throw refusal(name, 'It is a link, and no link to a tablespace.');
  }
  const target = links.get(oid);
  // One that was made since the backup began: replay makes it here, with its link.
  if (target === undefined) return;
  await files.makeLink(pathIn(directory, name), target);
}

/** A member's name without what means nothing. Throws 08P01 for one that leads astray. */
function checkedName(raw: string, directories: ReadonlySet<string>): string {
  const name = raw.replace(/^\.\//, '').replace(/\/$/, '');
  if (Buffer.from(name, 'latin1').toString('latin1') !== name) {
    throw refusal(raw, 'Its name is not made of single bytes.');
  }
  if (['', '.', '..'].includes(basename(name)) || !directories.has(dirname(name))) {
    throw refusal(raw, 'It is not in a directory of the archive.');
  }
  return name;
}

function pathIn(directory: string, name: string): Buffer {
  return Buffer.concat([Buffer.from(`${directory}/`), Buffer.from(name, 'latin1')]);
}

function refusal(name: string, detail: string): WalcadeError {
  const shown = Buffer.from(name, 'latin1').toString('utf8');
  return new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    `base backup has "${shown}", which has no place in it`,
    { detail },
  );
}
