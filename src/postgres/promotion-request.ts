/**
 * The file by which a standby is asked to promote itself, as pg_ctl and pg_promote() ask it. The
 * server takes the request and the file away together, so a file that is still there has not been
 * taken, and the server removes one that was left when it starts (xlogrecovery.c,
 * CheckForStandbyTrigger(), RemovePromoteSignalFiles()).
 */
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { removeIfThere, systemDisk } from '../base/disk.ts';
import { systemErrorCode } from '../base/errors.ts';
import { accessing } from '../base/file-access-error.ts';
import type { ServerUser } from './server-user.ts';

const REQUEST_FILE = 'promote';

/** Makes the file, which the server must be able to remove. SIGUSR1 has its postmaster look. */
export async function writePromotionRequest(
  dataDirectory: string,
  user: ServerUser | undefined,
): Promise<void> {
  const path = join(dataDirectory, REQUEST_FILE);
  await accessing('create promote signal file', path, async () => {
    await removeIfThere(systemDisk, path);
    // Never what a link of this name leads to.
    const file = await fs.open(path, 'wx', 0o600);
    try {
      if (user !== undefined) await file.chown(user.uid, user.gid);
    } finally {
      await file.close();
    }
  });
}

/** Takes the request back; whether it was still there, so that the server has not taken it. */
export async function withdrawPromotionRequest(dataDirectory: string): Promise<boolean> {
  const path = join(dataDirectory, REQUEST_FILE);
  try {
    await fs.unlink(path);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw error;
  }
}
