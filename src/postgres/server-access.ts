/**
 * Whether the user who is to run the server can get at what he needs. Root sees everything, so it
 * is found out as him, before a node is made that could not serve.
 */
import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ServerUser } from './server-user.ts';

const run = promisify(execFile);

/** What others may not do with a data directory: write as its group, anything as the rest. */
const REFUSED_MODES = 0o027;

/** Throws 42501 if `user` cannot pass through `directory`; undefined is who asks, and knows. */
export async function checkReachable(
  directory: string,
  user: ServerUser | undefined,
): Promise<void> {
  if (user === undefined) return;
  try {
    await run('test', ['-x', directory], { cwd: '/', ...user });
  } catch (error) {
    // Status 1 is the answer "no".
    if ((error as { code?: unknown }).code !== 1) throw error;
    throw new WalcadeError(
      SQLSTATE.INSUFFICIENT_PRIVILEGE,
      `directory "${directory}" cannot be reached by user ID ${user.uid}, who runs PostgreSQL`,
      { hint: 'Let that user pass through it and all above it, or choose another directory.' },
    );
  }
}

/** Throws what the server would end with when it starts (miscinit.c, checkDataDir()). */
export async function checkDataDirectoryAccess(
  dataDirectory: string,
  user: ServerUser | undefined,
): Promise<void> {
  const { uid, mode } = await stat(dataDirectory);
  const serverUid = user?.uid ?? process.geteuid?.();
  if (uid !== serverUid) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      `data directory "${dataDirectory}" has wrong ownership`,
      {
        detail: `Its owner is user ID ${uid}, the server is to run as user ID ${serverUid}.`,
        hint: 'The server must be started by the user that owns the data directory.',
      },
    );
  }
  if ((mode & REFUSED_MODES) !== 0) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      `data directory "${dataDirectory}" has invalid permissions`,
      { detail: 'Permissions should be u=rwx (0700) or u=rwx,g=rx (0750).' },
    );
  }
  await checkReachable(dataDirectory, user);
}
