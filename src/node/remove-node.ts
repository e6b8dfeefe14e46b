/** Removes a node: its slot on the upstream first, so that no WAL is held there for ever. */
import fs from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { ifThere } from '../base/file-access-error.ts';
import { loadConfig } from '../config/conf-file.ts';
import type { NodeConfig } from '../config/parameters.ts';
import { formatDropSlot } from '../protocol/replication-command.ts';
import { runningServer } from '../postgres/postmaster-pid.ts';
import { readControlData } from '../store/control-file.ts';
import type { MakingDoors } from './make-node.ts';
import { checkNodeDirectory } from './node-directory.ts';
import { runningPid } from './node-lock.ts';
import { isCopy, readPlace, tablespacesOf } from './node-place.ts';
import { connectUpstream } from './upstream-connector.ts';

/** What removing a node takes away with its directory, and what it leaves. */
export interface Removal {
  /** The directory itself, no link to it. */
  directory: string;
  /** On the upstream. */
  slot: string | undefined;
  /** What is outside of the directory, and stays: adopted data, tablespaces. */
  left: string[];
}

/** What `removeNode` would do; throws unless a stopped node is there. */
export async function checkRemovable(disk: Disk, path: string): Promise<Removal> {
  await checkNodeDirectory(path);
  const directory = await fs.realpath(path);
  const pid = await runningPid(directory);
  if (pid !== undefined) {
    throw new WalcadeError(SQLSTATE.OBJECT_IN_USE, `node is running (PID ${pid})`, {
      hint: `Stop it first, with "walcade stop -D ${path}".`,
    });
  }
  const config = await loadConfig(directory);
  const slot = await ownSlot(disk, directory, config);
  if (config.dataDirectory === '') return { directory, slot, left: [] };
  const dataDirectory = await ifThere(fs.realpath(resolve(directory, config.dataDirectory)));
  if (dataDirectory === undefined) return { directory, slot, left: [] };
  await checkServerStopped(dataDirectory);
  const isInside = dataDirectory.startsWith(`${directory}/`);
  if (!isInside) return { directory, slot, left: [dataDirectory] };
  // Another server may have its files there: CREATE TABLESPACE, replayed on the primary's machine,
  // gives both one directory, as with any standby.
  const left = (await tablespacesOf(dataDirectory)).map(({ location }) => location);
  return { directory, slot, left };
}

/** A copy that was never started still has the configuration, but not the slot, of its original. */
async function ownSlot(
  disk: Disk,
  directory: string,
  { primaryConninfo, primarySlotName, clusterName: name, dataDirectory }: NodeConfig,
): Promise<string | undefined> {
  // A node that lives by an archive has nobody to ask: its primary may be gone for ever.
  if (primaryConninfo === '') return undefined;
  const { place: recorded } = await readControlData(disk, directory);
  const data = dataDirectory ? resolve(directory, dataDirectory) : undefined;
  const now = await readPlace(directory, { name, primarySlotName, dataDirectory: data });
  if (recorded !== undefined && isCopy(recorded, now)) return undefined;
  return primarySlotName || undefined;
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
 * Drops the slot, if it is there, then removes the directory. Nothing is removed if the slot stays.
 */
export async function removeNode(
  doors: MakingDoors,
  directory: string,
  signal: AbortSignal,
): Promise<void> {
  const removal = await checkRemovable(doors.disk, directory);
  const { slot } = removal;
  if (slot !== undefined) await dropSlot(doors, { directory, slot }, signal);
  await fs.rm(removal.directory, { recursive: true });
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
