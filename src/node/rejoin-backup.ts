/**
 * A base backup of the new upstream, taken beside a node's data directory and put in its place
 * once all of it is durable: until then there must be room for both.
 */
import { type BaseBackup, removeTablespaces, takeBaseBackup } from '../postgres/base-backup.ts';
import { makeStandby } from '../postgres/data-directory.ts';
import { FileChanges } from '../postgres/file-changes.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { MakingDoors } from './make-node.ts';
import { forgetRejoin, noteRejoinStep } from './rejoin-marker.ts';
import type { RejoinPlaces } from './rejoin-places.ts';
import type { StoppedNode } from './stopped-node.ts';

export interface ReplaceOptions {
  node: StoppedNode;
  places: RejoinPlaces;
  /** Whether the data directory is of no use any more: no failure makes it so again. */
  isBroken: boolean;
  /** For the backup, with nothing under way. */
  client: ReplicationClient;
  serverVersionNum: number;
  tablespaceMapping: ReadonlyMap<string, string>;
  onProgress: (progress: { doneBytes: number; totalBytes: number }) => void;
  /** Called with the backup before it is put in place: throws if nothing can be made of it. */
  check: (backup: BaseBackup) => Promise<void>;
  signal: AbortSignal;
}

/**
 * Replaces the data directory by a base backup that is a standby's. What fails before the data
 * directory is touched leaves nothing of the backup.
 */
export async function replaceByBackup(
  { disk, clock }: MakingDoors,
  options: ReplaceOptions,
): Promise<BaseBackup> {
  const { node, places, isBroken, client, check, signal, ...backupOptions } = options;
  const { directory, user } = node;
  await noteRejoinStep(disk, directory, isBroken ? 'replacing' : 'copying');
  let backup: BaseBackup | undefined;
  try {
    backup = await takeBaseBackup(client, {
      ...backupOptions,
      directory: places.fresh,
      user,
      label: 'walcade rejoin',
      clock,
      keepOnFailure: false,
      signal,
    });
    await makeStandby(places.fresh, new FileChanges(user));
    await check(backup);
    signal.throwIfAborted();
    await noteRejoinStep(disk, directory, 'swapping');
    await places.swap();
    return backup;
  } catch (error) {
    if (!(await places.isUntouched())) throw error;
    if (backup !== undefined) await removeTablespaces(backup.tablespaces);
    await places.removeFresh();
    if (isBroken) await noteRejoinStep(disk, directory, 'replacing');
    else await forgetRejoin(disk, directory);
    throw error;
  }
}
