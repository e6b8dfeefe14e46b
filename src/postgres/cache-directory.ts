/**
 * Where this user's programs keep what they can make again.
 *
 * Not a temporary directory where that can be helped: those are cleaned file by file, under a
 * running server too. What lies here is run, so nobody else may be able to change it.
 */
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';

/** What a directory that cannot be made, or not be written, is refused with. */
const REFUSALS = ['EACCES', 'EPERM', 'EROFS', 'ENOENT', 'ENOTDIR'];

export interface CacheOwner {
  readonly uid: number;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly temporaryDirectory: string;
}

/**
 * The directories to try, best first: the system's for root, else the user's
 * (XDG Base Directory Specification), then one in the temporary directory.
 */
export function cacheDirectories(
  { uid, environment, temporaryDirectory }: CacheOwner = thisProcess(),
): string[] {
  const { XDG_CACHE_HOME: named = '', HOME: home = '' } = environment;
  const caches = uid === 0 ? ['/var/cache'] : [named, join(home, '.cache')];
  const best = caches.find((cache) => isAbsolute(cache));
  const last = join(temporaryDirectory, `walcade-${uid}`);
  return best === undefined ? [last] : [join(best, 'walcade'), last];
}

/**
 * Gives the result of `use` with the first of `directories` that can be made and written, which
 * everybody may enter. Throws 42501 for one that others can change, 53100 and 58030 for one that
 * cannot be written for other reasons.
 */
export async function withCacheDirectory<T>(
  directories: readonly string[],
  use: (directory: string) => Promise<T>,
): Promise<T> {
  const [directory, ...others] = directories;
  assert(directory !== undefined, 'there is a directory to try');
  try {
    return await use(await openCacheDirectory(directory));
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === undefined) throw error;
    if (REFUSALS.includes(code) && others.length > 0) return withCacheDirectory(others, use);
    throw new WalcadeError(
      code === 'ENOSPC' ? SQLSTATE.DISK_FULL : SQLSTATE.IO_ERROR,
      `could not write to directory "${directory}": ${describeSystemError(error)}`,
      { cause: error },
    );
  }
}

/** Throws 42501 if anybody but this process's user and root can change what is in `directory`. */
export async function checkTrusted(directory: string): Promise<void> {
  const { uid, mode } = await fs.lstat(directory);
  if (uid === ownUid() && (mode & 0o022) === 0) return;
  throw new WalcadeError(SQLSTATE.INSUFFICIENT_PRIVILEGE, `cannot trust directory "${directory}"`, {
    detail: 'It belongs to another user, or others may write into it.',
    hint: 'Remove it, and it is made anew.',
  });
}

async function openCacheDirectory(directory: string): Promise<string> {
  const made = await fs.mkdir(directory, { recursive: true, mode: 0o755 });
  // Links are followed, such as to a larger disk; what counts is who can change their end.
  const path = await fs.realpath(directory);
  if (made !== undefined) await fs.chmod(path, 0o755);
  await checkTrusted(path);
  return path;
}

function thisProcess(): CacheOwner {
  return { uid: ownUid(), environment: process.env, temporaryDirectory: tmpdir() };
}

function ownUid(): number {
  return process.getuid?.() ?? 0;
}
