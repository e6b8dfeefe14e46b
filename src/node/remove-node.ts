/** Removes a node: its slot on the upstream first, so that no WAL is held there for ever. */
import fs from 'node:fs/promises';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { loadConfig } from '../config/conf-file.ts';
import { formatDropSlot } from '../protocol/replication-command.ts';
import type { InitDoors } from './init-node.ts';
import { checkNodeDirectory, runningPid } from './node-directory.ts';
import { connectUpstream } from './upstream-connector.ts';

/** The slot that `removeNode` would drop on the upstream; throws unless a stopped node is there. */
export async function checkRemovable(directory: string): Promise<{ slot: string | undefined }> {
  await checkNodeDirectory(directory);
  const pid = await runningPid(directory);
  if (pid !== undefined) {
    throw new WalcadeError(SQLSTATE.OBJECT_IN_USE, `node is running (PID ${pid})`, {
      hint: `Stop it first, with "walcade stop -D ${directory}".`,
    });
  }
  const { primarySlotName } = await loadConfig(directory);
  return { slot: primarySlotName || undefined };
}

/** Drops the slot, if it is there, then the directory. Nothing is removed if the slot stays. */
export async function removeNode(
  doors: InitDoors,
  directory: string,
  signal: AbortSignal,
): Promise<void> {
  const { slot } = await checkRemovable(directory);
  if (slot !== undefined) await dropSlot(doors, { directory, slot }, signal);
  await fs.rm(directory, { recursive: true });
}

async function dropSlot(
  doors: InitDoors,
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
