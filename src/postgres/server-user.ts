/**
 * Who runs PostgreSQL: it refuses to run as root, so a root that runs a node lends it another
 * user. Users are looked up with `id`, which knows those of a directory service as well.
 */
import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';

const run = promisify(execFile);

/** Who runs PostgreSQL: it refuses to run as root. */
export interface ServerUser {
  readonly uid: number;
  readonly gid: number;
}

/**
 * Undefined for an ordinary user, who runs PostgreSQL himself. For root the owner of
 * `dataDirectory`, if that is given, there, and not root's; else the user `postgres`, else
 * `nobody`. Throws 42704 with neither.
 */
export async function serverUser(dataDirectory?: string): Promise<ServerUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const user =
    (await ownerOf(dataDirectory)) ?? (await lookUp('postgres')) ?? (await lookUp('nobody'));
  if (user !== undefined) return user;
  throw new WalcadeError(
    SQLSTATE.UNDEFINED_OBJECT,
    'cannot run PostgreSQL as root, and there is neither a user "postgres" nor "nobody"',
    { hint: 'Create one of the two, or run as another user.' },
  );
}

/** The owner of `directory` with his login group, or the directory's if nobody knows him. */
async function ownerOf(directory: string | undefined): Promise<ServerUser | undefined> {
  if (directory === undefined) return undefined;
  try {
    const { uid, gid } = await stat(directory);
    if (uid === 0) return undefined;
    return (await lookUp(String(uid))) ?? { uid, gid };
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
    throw error;
  }
}

/** The user of this name or number; undefined if there is none. */
async function lookUp(nameOrUid: string): Promise<ServerUser | undefined> {
  const id = async (what: '-u' | '-g'): Promise<number> =>
    Number((await run('id', [what, nameOrUid])).stdout);
  try {
    const [uid, gid] = await Promise.all([id('-u'), id('-g')]);
    return { uid, gid };
  } catch {
    return undefined;
  }
}
