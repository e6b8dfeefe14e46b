/**
 * Base backups by PostgreSQL's low-level API (manual, "Making a Base Backup Using the Low Level
 * API"): start, copy the files, stop, write backup_label. A standby made of one begins to stream
 * at the segment of the backup's start, since pg_wal is left out.
 */
import { execFile } from 'node:child_process';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ifThere } from '../../src/base/file-access-error.ts';
import type { ServerUser } from '../../src/postgres/server-user.ts';
import type { SqlClient } from './sql-client.ts';

const run = promisify(execFile);

/** Directories whose contents no backup has; pg_wal comes with the upstream's stream. */
const EMPTIED = new Set([
  'pg_wal',
  'pg_replslot',
  'pg_dynshmem',
  'pg_notify',
  'pg_serial',
  'pg_snapshots',
  'pg_stat_tmp',
  'pg_subtrans',
]);
const LEFT_OUT = new Set([
  'postmaster.pid',
  'postmaster.opts',
  'standby.signal',
  'recovery.signal',
  'backup_label.old',
  'postgresql.auto.conf.tmp',
]);

export interface BackupOptions {
  major: number;
  user: ServerUser | undefined;
}

/** Backs up the cluster in `dataDirectory` into `target`, which must not exist. */
export async function takeBackup(
  client: SqlClient,
  dataDirectory: string,
  target: string,
  { major, user }: BackupOptions,
): Promise<void> {
  const [start, stop] =
    major >= 15
      ? [`pg_backup_start('test', fast => true)`, `pg_backup_stop(wait_for_archive => false)`]
      : [`pg_start_backup('test', true, false)`, `pg_stop_backup(false, false)`];
  await client.run(`SELECT ${start}`);
  await fs.mkdir(target, { mode: 0o700 });
  await copyTree(dataDirectory, target);
  await copyFile(join(dataDirectory, 'global/pg_control'), join(target, 'global/pg_control'));
  for (const directory of EMPTIED) await fs.mkdir(join(target, directory), { recursive: true });
  const [[label]] = (await client.rows(`SELECT labelfile FROM ${stop}`)) as [[string]];
  await fs.writeFile(join(target, 'backup_label'), label);
  await changeOwner(target, user);
}

/**
 * Copies all of `source`, in which nobody writes, to `target`, which may exist if it is empty, and
 * gives it to `user`. Programs do it: a thousand files cost them half of what they cost Node.js.
 */
export async function copyDirectory(
  source: string,
  target: string,
  user: ServerUser | undefined,
): Promise<void> {
  await fs.mkdir(target, { recursive: true });
  await run('cp', ['-RPp', `${source}/.`, target]);
  await fs.chmod(target, 0o700);
  await changeOwner(target, user);
}

function isInBackup(path: string): boolean {
  const [first = '', ...inside] = path.split('/');
  if (inside.length > 0 && EMPTIED.has(first)) return false;
  if (LEFT_OUT.has(path) || path === 'global/pg_control') return false;
  return !/(^|\/)(pgsql_tmp|pg_internal\.init)/.test(path);
}

/** Copies what a backup has of files that grow, shrink or vanish: WAL repairs what it finds. */
async function copyTree(source: string, target: string, inside = ''): Promise<void> {
  const entries = (await ifThere(fs.readdir(join(source, inside), { withFileTypes: true }))) ?? [];
  await Promise.all(
    entries.map(async (entry) => {
      const path = inside === '' ? entry.name : `${inside}/${entry.name}`;
      if (!isInBackup(path)) return;
      if (entry.isDirectory()) {
        await fs.mkdir(join(target, path), { mode: 0o700, recursive: true });
        await copyTree(source, target, path);
      } else if (entry.isSymbolicLink()) {
        await fs.symlink(await fs.readlink(join(source, path)), join(target, path));
      } else if (entry.isFile()) {
        await copyFile(join(source, path), join(target, path));
      }
    }),
  );
}

async function copyFile(source: string, target: string): Promise<void> {
  await ifThere(fs.copyFile(source, target));
}

async function changeOwner(directory: string, user: ServerUser | undefined): Promise<void> {
  if (user === undefined) return;
  await run('chown', ['-RPh', `${user.uid}:${user.gid}`, directory]);
}
