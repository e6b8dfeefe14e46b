/** Removes a node: its slot on the upstream first, so that no WAL is held there for ever. */
import fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { loadConfig } from '../config/conf-file.ts';
import { formatDropSlot } from '../protocol/replication-command.ts';
import { runningServer } from '../postgres/postmaster-pid.ts';
import type { MakingDoors } from './make-node.ts';
import { checkNodeDirectory, runningPid } from './node-directory.ts';
import { tablespacesOf } from './node-place.ts';
import { connectUpstream } from './upstream-connector.ts';

/** What removing a node takes away with its directory. */
export interface Removal {
  /** On the upstream. */
  slot: string | undefined;
  /** The attached server's tablespaces, which are outside of it. */
  tablespaces: string[];
  /** A data directory that was adopted where it is, and stays there. */
  leftData: string | undefined;
}

/** What `removeNode` would do; throws unless a stopped node is there. */
export async function checkRemovable(directory: string): Promise<Removal> {
  await checkNodeDirectory(directory);
  const pid = await runningPid(directory);
  if (pid !== undefined) {
    throw new WalcadeError(SQLSTATE.OBJECT_IN_USE, `node is running (PID ${pid})`, {
      hint: `Stop it first, with "walcade stop -D ${directory}".`,
    });
  }
  const config = await loadConfig(directory);
  const slot = config.primarySlotName || undefined;
  if (config.dataDirectory === '') return { slot, tablespaces: [], leftData: undefined };
  const dataDirectory = resolve(directory, config.dataDirectory);
  await checkServerStopped(dataDirectory);
  const isInside = dataDirectory.startsWith(`${resolve(directory)}/`);
  if (!isInside) return { slot, tablespaces: [], leftData: dataDirectory };
  const tablespaces = (await tablespacesOf(dataDirectory)).map(({ location }) => location);
  return { slot, tablespaces, leftData: undefined };
}

/** A server that outlived a node that was killed may still be shutting down. */
async function checkServerStopped(dataDirectory: string): Promise<void> {
  const server = await runningServer(dataDirectory);
  if (server === undefined) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_IN_USE,
    `attached PostgreSQL server is running (PID ${server.pid})`,
    { hint: 'Try again when it has shut down.' },
  );
}

/**
 * Drops the slot, if it is there, then removes the directory and the tablespaces. Nothing is
 * removed if the slot stays.
 */
export async function removeNode(
  doors: MakingDoors,
  directory: string,
  signal: AbortSignal,
): Promise<void> {
  const { slot, tablespaces } = await checkRemovable(directory);
  if (slot !== undefined) await dropSlot(doors, { directory, slot }, signal);
  for (const location of tablespaces) await emptyTablespace(location);
  await fs.rm(directory, { recursive: true });
}

/** Removes the server's files; the directory too, unless something else is in it. */
async function emptyTablespace(location: string): Promise<void> {
  for (const name of await fs.readdir(location)) {
    if (/^PG_[0-9]+_[0-9]+$/.test(name)) await fs.rm(join(location, name), { recursive: true });
  }
  await fs.rmdir(location).catch(() => {});
}

async function dropSlot(
  doors: MakingDoors,
  { directory, slot }: { directory: string; slot: string },
  signal: AbortSignal,
): Promise<void> {
  const { primaryConninfo: text, clusterName: applicationName } = await loadConfig(directory);
  try {
    const client = await connectUpstream(doors, { text, applicationName }, signal);
    try {
      await client.query(formatDropSlot(slot));
    } finally {
      await client.close();
    }
  } catch (error) {
    const { sqlstate, message } = asWalcadeError(error);
    if (sqlstate === SQLSTATE.UNDEFINED_OBJECT) return;
    throw new WalcadeError(sqlstate, `could not drop replication slot "${slot}": ${message}`, {
      detail: 'Nothing was removed.',
      hint: 'Try again when the upstream can be reached, since the slot holds WAL there.',
      cause: error,
    });
  }
}
