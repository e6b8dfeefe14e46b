/**
 * The one door to files that WAL depends on. The store and the slots take a Disk, so that a test
 * can replace it by one that fails, fills up or forgets what was not synced.
 *
 * Errors are Node.js system errors; who calls knows what the file means and words the message.
 */
import fs from 'node:fs';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { systemErrorCode } from './errors.ts';

export interface DiskFile {
  /** Reads into `into` from `position` until it is full or the file ends; returns how much. */
  read(into: Uint8Array, position: number): Promise<number>;
  /** Writes all of `buffers`, one after the other, from `position`. */
  write(buffers: readonly Uint8Array[], position: number): Promise<void>;
  /** Makes the file `bytes` long; what is added reads as zeros. */
  truncate(bytes: number): Promise<void>;
  /** fdatasync: resolves once the file's data and size are durable. */
  sync(): Promise<void>;
  sizeBytes(): Promise<number>;
  /** Lets the members of a group read it, nobody but its owner write. */
  letRead(group: number): Promise<void>;
  close(): Promise<void>;
}

export interface Disk {
  /**
   * `read` and `write` need the file to be there; `create` makes it and refuses if it is. A link
   * in the file's place is refused: nothing here makes one.
   */
  open(path: string, mode: 'read' | 'write' | 'create'): Promise<DiskFile>;
  list(directory: string): Promise<string[]>;
  makeDirectory(path: string): Promise<void>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
  /** fsync of a directory: names made, renamed or removed in it are durable afterwards. */
  syncDirectory(path: string): Promise<void>;
}

const openAsync = promisify(fs.open);
const readAsync = promisify(fs.read);
const writevAsync = promisify(fs.writev);
const fdatasyncAsync = promisify(fs.fdatasync);
const fsyncAsync = promisify(fs.fsync);
const ftruncateAsync = promisify(fs.ftruncate);
const fstatAsync = promisify(fs.fstat);
const fchownAsync = promisify(fs.fchown);
const fchmodAsync = promisify(fs.fchmod);
const closeAsync = promisify(fs.close);

const { O_RDONLY, O_RDWR, O_CREAT, O_EXCL, O_NOFOLLOW } = fs.constants;
const FLAGS = {
  read: O_RDONLY | O_NOFOLLOW,
  write: O_RDWR | O_NOFOLLOW,
  create: O_RDWR | O_CREAT | O_EXCL,
} as const;
const SAME_OWNER = -1;

class SystemFile implements DiskFile {
  readonly #descriptor: number;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  async read(into: Uint8Array, position: number): Promise<number> {
    let done = 0;
    while (done < into.length) {
      const length = into.length - done;
      const { bytesRead } = await readAsync(this.#descriptor, into, done, length, position + done);
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return done;
  }

  async write(buffers: readonly Uint8Array[], position: number): Promise<void> {
    let rest = buffers;
    let at = position;
    while (rest.length > 0) {
      const { bytesWritten } = await writevAsync(this.#descriptor, rest, at);
      at += bytesWritten;
      rest = dropBytes(rest, bytesWritten);
    }
  }

  truncate(bytes: number): Promise<void> {
    return ftruncateAsync(this.#descriptor, bytes);
  }

  sync(): Promise<void> {
    return fdatasyncAsync(this.#descriptor);
  }

  async sizeBytes(): Promise<number> {
    return (await fstatAsync(this.#descriptor)).size;
  }

  async letRead(group: number): Promise<void> {
    await fchownAsync(this.#descriptor, SAME_OWNER, group);
    await fchmodAsync(this.#descriptor, 0o640);
  }

  close(): Promise<void> {
    return closeAsync(this.#descriptor);
  }
}

/** What is left of `buffers` after their first `bytes`. */
function dropBytes(buffers: readonly Uint8Array[], bytes: number): readonly Uint8Array[] {
  let index = 0;
  let left = bytes;
  for (; index < buffers.length; index++) {
    const length = (buffers[index] as Uint8Array).length;
    if (left < length) break;
    left -= length;
  }
  const rest = buffers.slice(index);
  if (left > 0) rest[0] = (rest[0] as Uint8Array).subarray(left);
  return rest;
}

export const systemDisk: Disk = {
  open: async (path, mode) => new SystemFile(await openAsync(path, FLAGS[mode], 0o600)),
  list: (directory) => fs.promises.readdir(directory),
  makeDirectory: async (path) => {
    await fs.promises.mkdir(path, { mode: 0o700 });
  },
  rename: (from, to) => fs.promises.rename(from, to),
  remove: (path) => fs.promises.unlink(path),
  syncDirectory: async (path) => {
    const descriptor = await openAsync(path, 'r');
    try {
      await fsyncAsync(descriptor);
    } finally {
      await closeAsync(descriptor);
    }
  },
};

/** `disk`, whose files are made for the members of a group to read. */
export function diskReadableBy(disk: Disk, group: number): Disk {
  return {
    open: async (path, mode) => {
      const file = await disk.open(path, mode);
      if (mode !== 'create') return file;
      try {
        await file.letRead(group);
        return file;
      } catch (error) {
        await file.close();
        throw error;
      }
    },
    list: (directory) => disk.list(directory),
    makeDirectory: (path) => disk.makeDirectory(path),
    rename: (from, to) => disk.rename(from, to),
    remove: (path) => disk.remove(path),
    syncDirectory: (path) => disk.syncDirectory(path),
  };
}

/** The whole content of a file. */
export async function readWholeFile(disk: Disk, path: string): Promise<Buffer> {
  const file = await disk.open(path, 'read');
  try {
    const content = Buffer.alloc(await file.sizeBytes());
    const length = await file.read(content, 0);
    return content.subarray(0, length);
  } finally {
    await file.close();
  }
}

/**
 * Makes or replaces `path` so that after any crash it holds the old content or the new, whole:
 * written beside it, synced, renamed, and the directory synced (durable_rename() in fd.c).
 */
export async function writeFileDurably(
  disk: Disk,
  path: string,
  content: Uint8Array,
): Promise<void> {
  const temporary = `${path}.tmp`;
  const directory = dirname(path);
  await removeIfThere(disk, temporary);
  const file = await disk.open(temporary, 'create');
  try {
    await file.write([content], 0);
    await file.sync();
  } finally {
    await file.close();
  }
  await disk.rename(temporary, path);
  await disk.syncDirectory(directory);
}

/** Removes a file; that it is not there is no error. */
export async function removeIfThere(disk: Disk, path: string): Promise<void> {
  try {
    await disk.remove(path);
  } catch (error) {
    if (systemErrorCode(error) !== 'ENOENT') throw error;
  }
}
