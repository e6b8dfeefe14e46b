/** The replication slots of a data directory: which there are, and their removal. */
import { execFile } from 'node:child_process';
import { lstat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import { serverEnvironment } from './server-environment.ts';
import type { ServerUser } from './server-user.ts';

const run = promisify(execFile);

const SLOT_DIRECTORY = 'pg_replslot';

/** Whether the slot is there (slot.c, CreateSlotOnDisk()), whether its server runs or not. */
export async function hasServerSlot(dataDirectory: string, slot: string): Promise<boolean> {
  return (await ifThere(lstat(join(dataDirectory, SLOT_DIRECTORY, slot)))) !== undefined;
}

/**
 * Removes all slots of `dataDirectory`, an absolute path, whose server does not run, durably. It is
 * done as `user`: what is there is his, and root would remove whatever he lets it lead to. Throws
 * 55000 if their directory is a link, since it may lead to another server's, and 58030 if they
 * cannot be removed.
 */
export async function removeServerSlots(
  disk: Disk,
  dataDirectory: string,
  user: ServerUser | undefined,
): Promise<void> {
  const directory = join(dataDirectory, SLOT_DIRECTORY);
  if (!(await isThere(directory))) return;
  try {
    await run('/bin/sh', ['-c', 'cd "$1" && rm -rf ./*', 'walcade-slots', directory], {
      cwd: '/',
      env: serverEnvironment(process.env, user),
      ...user,
    });
  } catch (error) {
    const { stderr = '' } = error as { stderr?: string };
    throw new WalcadeError(SQLSTATE.IO_ERROR, `could not empty directory "${directory}"`, {
      detail: stderr.trim() || undefined,
      hint: 'All in a data directory must belong to who runs PostgreSQL, as "cp -a" leaves it.',
      cause: error,
    });
  }
  await accessing('fsync file', directory, () => disk.syncDirectory(directory));
}

async function isThere(directory: string): Promise<boolean> {
  const stat = await ifThere(lstat(directory));
  if (stat === undefined) return false;
  if (stat.isDirectory()) return true;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `"${directory}" is not a directory`,
    { hint: "Make it a directory of its own, since a link may lead to another server's slots." },
  );
}
