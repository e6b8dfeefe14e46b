/**
 * Files, directories and links that are made once and are durable in the end: what a base backup
 * leaves on disk, owned by who is to run the server on it.
 *
 * It lives until `finish`, or until `abandon` if all was in vain. Files are synced in batches, one
 * while the next is written: the first fsync of a batch makes the file system commit the names of
 * all, the others find little left to do. A file stays open until then, so that no error is lost.
 * They are made in directories that only we can enter, which are given away when all is done.
 */
import { type FileHandle, lchown, mkdir, open, symlink } from 'node:fs/promises';
import { systemErrorCode } from '../base/errors.ts';
import { accessing, fileAccessError } from '../base/file-access-error.ts';
import { CRC32C_START, crc32cFinish, crc32cUpdate } from '../wal/crc32c.ts';
import type { ReceivedFile } from './backup-manifest.ts';
import type { ServerUser } from './server-user.ts';

const BATCH_FILES_MAX = 128;
const BATCH_BYTES_MAX = 32 * 1024 * 1024;

export type Path = string | Buffer;

interface OpenFile {
  readonly file: FileHandle;
  readonly path: Path;
}

export class DurableFiles {
  readonly #user: ServerUser | undefined;
  readonly #directories: Path[] = [];
  /** Written and not synced: the next batch. */
  #written: OpenFile[] = [];
  #writtenBytes = 0;
  /** The batch that is being synced. */
  #syncing: Promise<void> = Promise.resolve();

  /** What is made belongs to `user`, or to us. */
  constructor(user: ServerUser | undefined) {
    this.#user = user;
  }

  /** Makes a directory; its parent must be there. */
  async makeDirectory(path: Path, mode: number): Promise<void> {
    await accessing('create directory', path, async () => {
      await mkdir(path, { mode });
      await this.#giveAway(path);
    });
    this.syncLater(path);
  }

  /** Makes a symbolic link to `target`. */
  async makeLink(path: Path, target: string): Promise<void> {
    await accessing('create symbolic link', path, async () => {
      await symlink(target, path);
      await this.#giveAway(path);
    });
  }

  /** Makes a file of `chunks`, each of which is written before the next is asked for. */
  async makeFile(
    path: Path,
    mode: number,
    chunks: AsyncIterable<Uint8Array>,
  ): Promise<ReceivedFile> {
    if (this.#written.length >= BATCH_FILES_MAX || this.#writtenBytes >= BATCH_BYTES_MAX) {
      await this.#syncBatch();
    }
    const file = await accessing('create file', path, () => open(path, 'wx', mode));
    try {
      let bytes = 0;
      let crc = CRC32C_START;
      for await (const chunk of chunks) {
        const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.length);
        crc = crc32cUpdate(crc, view, 0, chunk.length);
        await accessing('write to file', path, () => writeAll(file, chunk));
        bytes += chunk.length;
      }
      const user = this.#user;
      if (user !== undefined) {
        await accessing('change the owner of file', path, () => file.chown(user.uid, user.gid));
      }
      this.#written.push({ file, path });
      this.#writtenBytes += bytes;
      return { bytes, crc: crc32cFinish(crc) >>> 0 };
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** Has the names in a directory synced at the end. */
  syncLater(directory: Path): void {
    this.#directories.push(directory);
  }

  /** Resolves when all that was made is durable. */
  async finish(): Promise<void> {
    await this.#syncBatch();
    await this.#syncing;
    for (const path of this.#directories) {
      const file = await openDirectory(path);
      if (file !== undefined) await syncAndClose([{ file, path }]);
    }
  }

  /** Resolves when nothing is under way and no file open any more; what was made stays. */
  async abandon(): Promise<void> {
    await this.#syncing.catch(() => {});
    const files = this.#written.splice(0);
    await Promise.all(files.map(({ file }) => file.close()));
  }

  /** Begins to sync what was written, as soon as the batch before is. Throws what failed there. */
  async #syncBatch(): Promise<void> {
    await this.#syncing;
    this.#syncing = syncAndClose(this.#written);
    // It is awaited with the next batch; until then a failure is not unhandled.
    this.#syncing.catch(() => {});
    this.#written = [];
    this.#writtenBytes = 0;
  }

  async #giveAway(path: Path): Promise<void> {
    if (this.#user !== undefined) await lchown(path, this.#user.uid, this.#user.gid);
  }
}

/** Undefined for one that we may write and not read: PostgreSQL leaves it alone, too (fd.c). */
async function openDirectory(path: Path): Promise<FileHandle | undefined> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (systemErrorCode(error) === 'EACCES') return undefined;
    throw fileAccessError(error, 'open directory', path);
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done)).bytesWritten;
  }
}

/** Syncs one after the other, which leaves the other threads to who writes; closes all. */
async function syncAndClose(files: readonly OpenFile[]): Promise<void> {
  let failure: { error: unknown } | undefined;
  for (const { file, path } of files) {
    if (failure === undefined) {
      await accessing('fsync file', path, () => file.sync()).catch((error: unknown) => {
        failure = { error };
      });
    }
    await file.close();
  }
  if (failure !== undefined) throw failure.error;
}
