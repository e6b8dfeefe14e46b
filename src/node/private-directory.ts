/**
 * The directory of the sockets between a node and its attached server, which no one else can enter.
 *
 *   private       ours, with the server's hba file, and as root nobody else's to change
 *   private/wal   the node listens here for the attached server's WAL receiver
 *   private/sql   the attached server's only socket
 *
 * The two are PostgreSQL's user's, so nothing but sockets is made in them. Where a path would be
 * too long for a socket, or has a comma, at which libpq splits, a link stands for the directory
 * while the node runs. Its name follows from the path: a server left from a crash is known by it.
 */
import { createHash } from 'node:crypto';
import { lstatSync, readlinkSync, symlinkSync } from 'node:fs';
import fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';
import type { ServerUser } from '../postgres/server-user.ts';
import { UNIX_SOCKET_PATH_BYTES_MAX, unixSocketPath } from '../protocol/network.ts';
import { PRIVATE_DIRECTORY } from './node-directory.ts';

export interface PrivateDirectory {
  /** Absolute, and short enough for sockets in it. */
  readonly walSockets: string;
  readonly sqlSockets: string;
  /** Trusts whoever can enter, which is the node and PostgreSQL's user. */
  readonly hbaFile: string;
  /** An empty map, since the server's own may be in /etc of another machine. */
  readonly identFile: string;
  /**
   * Makes the link to it, if it needs one and has none: also one that a cleaner of /tmp has taken.
   * To be called before a socket is used. Throws 42501 if what has its name is not ours.
   */
  ensureLink(): void;
  removeLink(): Promise<void>;
}

const TRUST = `local all all trust
local replication all trust
`;
const LONGEST_PORT = 65_535;

/** Makes what is missing of it, for sockets that `user` may use too. */
export async function openPrivateDirectory(
  nodeDirectory: string,
  { user }: { user: ServerUser | undefined },
): Promise<PrivateDirectory> {
  const path = resolve(nodeDirectory, PRIVATE_DIRECTORY);
  const us = user === undefined ? undefined : { uid: 0, gid: 0 };
  await makeDirectory(path, { owner: us, mode: user === undefined ? 0o700 : 0o711 });
  // From here on nobody else can put anything in the place of what is in it.
  for (const name of ['wal', 'sql']) {
    await makeDirectory(join(path, name), { owner: user, mode: 0o700 });
  }
  const mode = user === undefined ? 0o600 : 0o644;
  const hbaFile = await makeFile(join(path, 'pg_hba.conf'), TRUST, mode);
  const identFile = await makeFile(join(path, 'pg_ident.conf'), '', mode);
  const fits = socketBytes(path) <= UNIX_SOCKET_PATH_BYTES_MAX && !path.includes(',');
  const link = fits ? undefined : await linkFor(path);
  const sockets = link ?? path;
  return {
    walSockets: join(sockets, 'wal'),
    sqlSockets: join(sockets, 'sql'),
    hbaFile,
    identFile,
    ensureLink: () => {
      if (link !== undefined) ensureLink(link, path);
    },
    removeLink: async () => {
      if (link !== undefined) await fs.rm(link, { force: true });
    },
  };
}

function socketBytes(path: string): number {
  return Buffer.byteLength(unixSocketPath(join(path, 'sql'), LONGEST_PORT));
}

/**
 * Makes the directory, or takes one that is there, whoever had it, since nobody but `owner` is to
 * be in it. Without `owner` it stays ours.
 */
async function makeDirectory(
  path: string,
  { owner, mode }: { owner: ServerUser | undefined; mode: number },
): Promise<void> {
  try {
    await fs.mkdir(path, { mode: 0o700 });
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
    if (!(await fs.lstat(path)).isDirectory()) {
      throw new WalcadeError(SQLSTATE.INSUFFICIENT_PRIVILEGE, `cannot trust "${path}"`, {
        detail: 'It is not a directory.',
        hint: 'Remove it, and it is made anew.',
      });
    }
  }
  if (owner !== undefined) await fs.lchown(path, owner.uid, owner.gid);
  await fs.chmod(path, mode);
}

/** Makes the file anew, whatever was there before; gives its path. */
async function makeFile(path: string, text: string, mode: number): Promise<string> {
  await fs.rm(path, { force: true });
  const file = await fs.open(path, 'wx', mode);
  try {
    await file.chmod(mode);
    await file.writeFile(text);
  } finally {
    await file.close();
  }
  return path;
}

/** The link that stands for `path`: where only root writes and no cleaner goes, if that is us. */
async function linkFor(path: string): Promise<string> {
  const directory = await fs.access('/run', fs.constants.W_OK).then(
    () => '/run',
    () => '/tmp',
  );
  const name = createHash('sha256').update(path).digest('hex').slice(0, 16);
  return `${directory}/walcade-${name}`;
}

function ensureLink(link: string, path: string): void {
  try {
    symlinkSync(path, link);
    return;
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
  }
  const entry = lstatSync(link);
  const isOurs = entry.isSymbolicLink() && entry.uid === process.geteuid?.();
  if (isOurs && readlinkSync(link) === path) return;
  throw new WalcadeError(SQLSTATE.INSUFFICIENT_PRIVILEGE, `cannot trust "${link}"`, {
    detail: 'It belongs to another user, or does not lead to this node.',
    hint: 'Remove it, or put the node into a directory with a shorter path.',
  });
}
