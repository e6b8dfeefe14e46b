/**
 * Changes to files of a data directory that can be taken back, for as long as it is not certain
 * that what they are for succeeds.
 *
 * A file is written beside the one that is there, synced, and renamed over it: a crash leaves the
 * one or the other, whole. PostgreSQL's user may put a link in the place of any file, also while
 * root is writing: what is written is always a new file, and a link is replaced, not followed.
 */
import fs from 'node:fs/promises';
import { dirname } from 'node:path';
import { removeIfThere, systemDisk } from '../base/disk.ts';
import { systemErrorCode } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import type { ServerUser } from './server-user.ts';

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants;
const PERMISSIONS = 0o7777;
const OURS_ALONE = 0o600;

interface FileState {
  content: Buffer;
  mode: number;
  uid: number;
  gid: number;
  /** Of the last change, in seconds. */
  changedAt: number;
}

/** What was at a path before it was changed. */
type Before =
  | { kind: 'nothing' }
  | { kind: 'file'; state: FileState }
  | { kind: 'link'; target: string };

export class FileChanges {
  readonly #user: ServerUser | undefined;
  readonly #done: { path: string; before: Before }[] = [];

  /** New files belong to `user`, or to us. */
  constructor(user: ServerUser | undefined) {
    this.#user = user;
  }

  /**
   * Makes or replaces a file, durably; one that is replaced keeps its owner and permissions. Throws
   * what the file system answers.
   */
  async write(path: string, content: Buffer): Promise<void> {
    await accessing('write file', path, async () => {
      const before = await stateOf(path);
      const wanted = before.kind === 'file' ? before.state : { ...this.#user, mode: OURS_ALONE };
      const temporary = await writeBeside(path, { ...wanted, content, changedAt: undefined });
      await renameOver(temporary, path);
      this.#done.push({ path, before });
      await systemDisk.syncDirectory(dirname(path));
    });
  }

  /** Undoes what was done, the last first; throws what could not be, when the rest is. */
  async takeBack(): Promise<void> {
    let failure: { error: unknown } | undefined;
    for (const { path, before } of this.#done.splice(0).toReversed()) {
      try {
        await accessing('restore file', path, () => restore(path, before));
      } catch (error) {
        failure ??= { error };
      }
    }
    if (failure !== undefined) throw failure.error;
  }
}

/** The content of a regular file; undefined if there is none, but perhaps a link or a directory. */
export async function readRegularFile(path: string): Promise<Buffer | undefined> {
  return (await readState(path))?.content;
}

async function readState(path: string): Promise<FileState | undefined> {
  let file: fs.FileHandle;
  try {
    // A pipe in its place is opened at once, too.
    file = await fs.open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch (error) {
    const code = systemErrorCode(error);
    // A link, and a socket.
    if (code === 'ENOENT' || code === 'ELOOP' || code === 'ENXIO') return undefined;
    throw error;
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) return undefined;
    const { mode, uid, gid, mtimeMs } = stat;
    const changedAt = mtimeMs / 1000;
    return { content: await file.readFile(), mode: mode & PERMISSIONS, uid, gid, changedAt };
  } finally {
    await file.close();
  }
}

async function stateOf(path: string): Promise<Before> {
  const state = await readState(path);
  if (state !== undefined) return { kind: 'file', state };
  const target = await ifThere(fs.readlink(path));
  return target === undefined ? { kind: 'nothing' } : { kind: 'link', target };
}

async function restore(path: string, before: Before): Promise<void> {
  if (before.kind === 'nothing') await removeIfThere(systemDisk, path);
  if (before.kind === 'file') await renameOver(await writeBeside(path, before.state), path);
  if (before.kind === 'link') {
    const temporary = await freeNameBeside(path);
    await fs.symlink(before.target, temporary);
    await renameOver(temporary, path);
  }
  await systemDisk.syncDirectory(dirname(path));
}

/** Writes a new file, durably, and gives its name; nothing is left of one that fails. */
async function writeBeside(
  path: string,
  wanted: {
    content: Buffer;
    mode: number;
    uid?: number;
    gid?: number;
    changedAt: number | undefined;
  },
): Promise<string> {
  const temporary = await freeNameBeside(path);
  const file = await fs.open(temporary, 'wx', OURS_ALONE);
  try {
    await file.writeFile(wanted.content);
    await giveAway(file, wanted);
    await file.chmod(wanted.mode);
    const { changedAt } = wanted;
    if (changedAt !== undefined) await file.utimes(changedAt, changedAt);
    await file.sync();
  } catch (error) {
    await removeIfThere(systemDisk, temporary);
    throw error;
  } finally {
    await file.close();
  }
  return temporary;
}

/** Only root can give a file to somebody else; another may find it in a group not his. */
async function giveAway(
  file: fs.FileHandle,
  { uid, gid }: { uid?: number; gid?: number },
): Promise<void> {
  const now = await file.stat();
  if (uid === undefined || gid === undefined || (now.uid === uid && now.gid === gid)) return;
  try {
    await file.chown(uid, gid);
  } catch (error) {
    if (systemErrorCode(error) !== 'EPERM' || process.geteuid?.() === 0) throw error;
  }
}

/** What a process that was killed has left there goes. */
async function freeNameBeside(path: string): Promise<string> {
  const temporary = `${path}.walcade.tmp`;
  await removeIfThere(systemDisk, temporary);
  return temporary;
}

async function renameOver(temporary: string, path: string): Promise<void> {
  try {
    await fs.rename(temporary, path);
  } catch (error) {
    await removeIfThere(systemDisk, temporary);
    throw error;
  }
}
