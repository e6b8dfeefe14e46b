/**
 * `walcade adopt`: a node around a data directory that is there already, as pg_basebackup or a
 * standby has left it. The data directory stays where it is; it is changed when all else is certain
 * but the node's own files, and is as it was if these cannot be written.
 */
import { dirname, join, resolve } from 'node:path';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { type ControlData, readControlData } from '../postgres/control-data.ts';
import { makeStandby, readBackupLabel, readMajor } from '../postgres/data-directory.ts';
import { FileChanges } from '../postgres/file-changes.ts';
import { checkDataDirectoryAccess, checkReachable } from '../postgres/server-access.ts';
import { findServerPrograms } from '../postgres/server-programs.ts';
import { serverUser } from '../postgres/server-user.ts';
import { formatLsn } from '../wal/lsn.ts';
import type { BuiltServer } from './init-node.ts';
import {
  type MadeNode,
  type Making,
  type MakingDoors,
  type NodeChoice,
  makeNode,
} from './make-node.ts';
import { DATA_DIRECTORY } from './node-directory.ts';
import { checkInHistory, checkNotAhead, neededWal } from './needed-wal.ts';
import { askForWal } from './served-wal.ts';
import { checkSameMajor, checkStopped } from './stopped-data.ts';
import { type StoreStart, readHistory, startForRedo } from './store-start.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

export interface AdoptOptions extends NodeChoice {
  dataDirectory: string;
  /** Where PostgreSQL's programs are; undefined to look for them. */
  binDirectory: string | undefined;
}

/** Makes a node in `options.directory`; throws what is wrong with the data or the upstream. */
export async function adoptNode(
  doors: MakingDoors,
  options: AdoptOptions,
  signal: AbortSignal,
): Promise<MadeNode<BuiltServer>> {
  const { directory, binDirectory } = options;
  const dataDirectory = resolve(options.dataDirectory);
  const own = join(resolve(directory), DATA_DIRECTORY);
  const major = await readMajor(dataDirectory);
  const user = await serverUser(dataDirectory);
  const programs = await findServerPrograms({ major, directory: binDirectory, user });
  await checkStopped(dataDirectory);
  await checkDataDirectoryAccess(dataDirectory, user);
  const data = await readControlData(dataDirectory);
  const label = await readBackupLabel(dataDirectory);
  const redo = label?.start ?? data.redo;
  const needed = neededWal(data, label);
  const check = async (upstream: UpstreamFacts): Promise<void> => {
    await checkReachable(dirname(resolve(directory)), user);
    checkSameMajor(major, upstream);
    checkSameSystem(data, upstream);
    if (label === undefined) checkState(data);
    checkNotAhead(needed, upstream.identity);
  };
  const build = async (making: Making): Promise<BuiltServer> => {
    const { client, upstream } = making;
    checkInHistory(needed, await readHistory(client, upstream.identity.timeline));
    const store = await startForRedo(client, upstream, redo);
    await checkServed(making, store);
    const changes = new FileChanges(user);
    making.onFailure(() => changes.takeBack());
    await checkStopped(dataDirectory);
    await makeStandby(dataDirectory, changes);
    const settings = {
      data_directory: dataDirectory === own ? DATA_DIRECTORY : dataDirectory,
      ...(binDirectory === undefined ? {} : { postgres_bin_directory: binDirectory }),
    };
    return { store, programs, server: { dataDirectory, user, settings } };
  };
  // A data directory may have been put where a node has it.
  const mayHold = dataDirectory === own ? [DATA_DIRECTORY] : [];
  return makeNode(doors, options, { check, build, mayHold, leaves: [] }, signal);
}

function checkSameSystem({ systemIdentifier }: ControlData, { identity }: UpstreamFacts): void {
  if (systemIdentifier === identity.systemIdentifier) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'database system identifier differs between the upstream and the data directory',
    {
      detail:
        `The upstream's identifier is ${identity.systemIdentifier}, ` +
        `the data directory's identifier is ${systemIdentifier}.`,
      hint: 'Adopt a standby or a base backup of a server of the same cluster.',
    },
  );
}

/** A directory without backup_label: a standby's, or that of a primary that ended in peace. */
function checkState({ state }: ControlData): void {
  if (MAY_FOLLOW.includes(state)) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory is of a server that is "${state}"`,
    {
      detail: 'It has no backup_label, and its server was no standby or was not shut down.',
      hint: 'Start and stop that server once, or take a base backup.',
    },
  );
}

const MAY_FOLLOW: readonly string[] = ['shut down', 'shut down in recovery', 'in archive recovery'];

/** Throws what the upstream answers when asked for the WAL that recovery begins with. */
async function checkServed({ connect }: Making, store: StoreStart): Promise<void> {
  try {
    await askForWal(connect, store);
  } catch (error) {
    const { sqlstate, message } = asWalcadeError(error);
    if (sqlstate !== SQLSTATE.UNDEFINED_FILE) throw error;
    throw new WalcadeError(sqlstate, message, {
      detail: `Recovery of the data directory begins at ${formatLsn(store.start)}.`,
      hint: 'Name an upstream that still has this WAL, or take a new base backup.',
      cause: error,
    });
  }
}
