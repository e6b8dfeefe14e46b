/**
 * The directory of the sockets between a node and its attached server, which no one else can enter.
 *
 *   private/wal   the node listens here for the attached server's WAL receiver
 *   private/sql   the attached server's only socket
 *
 * A socket's path may be 107 bytes long at most, and libpq takes none with a comma: for a node that
 * lies so, a link in /tmp stands for the directory while the node runs. Its name follows from the
 * path, so that a server left from a crash is known by it.
 */
import { createHash } from 'node:crypto';
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
  remove(): Promise<void>;
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
  for (const folder of [path, join(path, 'wal'), join(path, 'sql')]) {
    await fs.mkdir(folder, { recursive: true });
    await fs.chmod(folder, 0o700);
    if (user !== undefined) await fs.chown(folder, user.uid, user.gid);
  }
  const hbaFile = join(path, 'pg_hba.conf');
  const identFile = join(path, 'pg_ident.conf');
  for (const [file, text] of [
    [hbaFile, TRUST],
    [identFile, ''],
  ] as const) {
    await fs.writeFile(file, text, { mode: 0o600 });
    if (user !== undefined) await fs.chown(file, user.uid, user.gid);
  }
  const fits = socketBytes(path) <= UNIX_SOCKET_PATH_BYTES_MAX && !path.includes(',');
  const link = fits ? undefined : await linkTo(path);
  const sockets = link ?? path;
  return {
    walSockets: join(sockets, 'wal'),
    sqlSockets: join(sockets, 'sql'),
    hbaFile,
    identFile,
    remove: async () => {
      if (link !== undefined) await fs.rm(link, { force: true });
    },
  };
}

function socketBytes(path: string): number {
  return Buffer.byteLength(unixSocketPath(join(path, 'sql'), LONGEST_PORT));
}

/** A link in /tmp to `path`; throws 42501 if what is there under its name is not ours. */
async function linkTo(path: string): Promise<string> {
  const name = createHash('sha256').update(path).digest('hex').slice(0, 16);
  const link = `/tmp/walcade-${name}`;
  try {
    await fs.symlink(path, link);
    return link;
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') throw error;
  }
  const { uid } = await fs.lstat(link);
  const target = await fs.readlink(link).catch(() => undefined);
  if (uid === process.getuid?.() && target === path) return link;
  throw new WalcadeError(SQLSTATE.INSUFFICIENT_PRIVILEGE, `cannot trust "${link}"`, {
    detail: 'It belongs to another user, or does not lead to this node.',
    hint: 'Remove it, or put the node into a directory with a shorter path.',
  });
}
