/**
 * What of a node's directory PostgreSQL's user may see when root runs the node: he passes through
 * the directory and reads WAL, as restore_command has to, and can change nothing.
 *
 *   DIR      root's, 0711
 *   pg_wal   root's, 0750 and its files 0640 for the group of PostgreSQL's user
 *
 * Whoever owns a directory can put a link in it where root is about to write. So nothing that root
 * writes into is his. A copy made by root, or a relay that got a server, is put right at its start.
 */
import type { Stats } from 'node:fs';
import fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ServerUser } from '../postgres/server-user.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';

const OWN = process.geteuid?.() ?? 0;

const PASSABLE = 0o711;
const OURS_ALONE = 0o700;
const LISTED_BY_GROUP = 0o750;
const READ_BY_GROUP = 0o640;
const PERMISSIONS = 0o7777;

/**
 * Gives `user` what he needs of the node in `directory`, and takes back what he has beyond it.
 * Throws 55000 if the directory itself is not ours: then nothing in it can be trusted.
 */
export async function openToServer(directory: string, { gid }: ServerUser): Promise<void> {
  const { uid, gid: ofDirectory } = await fs.stat(directory);
  if (uid !== OWN) throw notOurs(directory, uid);
  await set(directory, { gid: ofDirectory, mode: PASSABLE });
  const walDirectory = join(directory, WAL_DIRECTORY);
  const wanted = { gid, mode: LISTED_BY_GROUP };
  // There may be very many files; a directory that is right has been through this.
  if (isSet(await fs.stat(walDirectory), wanted)) return;
  await set(walDirectory, { gid, mode: OURS_ALONE });
  // From here on nobody else can put a link in a file's place.
  for (const { name } of await regularFiles(walDirectory)) {
    await set(join(walDirectory, name), { gid, mode: READ_BY_GROUP });
  }
  await set(walDirectory, wanted);
}

async function regularFiles(directory: string) {
  const entries = await fs.readdir(directory, { withFileTypes: true });
  return entries.filter((entry) => entry.isFile());
}

/** Makes `path` ours, of the group, with the permissions; nothing is done to what is so. */
async function set(path: string, { gid, mode }: { gid: number; mode: number }): Promise<void> {
  if (isSet(await fs.stat(path), { gid, mode })) return;
  await fs.chown(path, OWN, gid);
  await fs.chmod(path, mode);
}

function isSet(now: Stats, { gid, mode }: { gid: number; mode: number }): boolean {
  return now.uid === OWN && now.gid === gid && (now.mode & PERMISSIONS) === mode;
}

function notOurs(directory: string, uid: number): WalcadeError {
  const path = resolve(directory);
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `directory "${path}" has wrong ownership`,
    {
      detail: `Its owner is user ID ${uid}, the node runs as user ID ${OWN}.`,
      hint: `Run "chown ${OWN} ${path}", or run the node as its owner.`,
    },
  );
}
