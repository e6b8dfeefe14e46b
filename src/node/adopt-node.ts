/**
 * `walcade adopt`: a node around a data directory that is there already, as pg_basebackup or a
 * standby has left it. The data directory stays where it is, and is changed only at the very end.
 */
import { dirname, join, resolve } from 'node:path';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { BACKEND } from '../protocol/message-type.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import { formatStartReplication } from '../protocol/replication-command.ts';
import { type ControlData, readControlData } from '../postgres/control-data.ts';
import { makeStandby, readBackupLabel, readMajor } from '../postgres/data-directory.ts';
import { runningServer } from '../postgres/postmaster-pid.ts';
import { checkDataDirectoryAccess, checkReachable } from '../postgres/server-access.ts';
import { findServerPrograms } from '../postgres/server-programs.ts';
import { serverUser } from '../postgres/server-user.ts';
import { timelineOf } from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn, lsn, parseLsn, timelineId } from '../wal/lsn.ts';
import type { BuiltServer } from './init-node.ts';
import {
  type MadeNode,
  type Making,
  type MakingDoors,
  type NodeChoice,
  makeNode,
} from './make-node.ts';
import { DATA_DIRECTORY } from './node-directory.ts';
import { readHistory, startForRedo } from './store-start.ts';
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
  const redo = label === undefined ? data.redo : parseLsn(label.start);
  const timeline = label === undefined ? data.timeline : timelineId(label.timeline);
  const needed = label === undefined ? lastNeeded(data) : redo;
  const check = async (upstream: UpstreamFacts): Promise<void> => {
    await checkReachable(dirname(resolve(directory)), user);
    checkSameMajor(major, upstream);
    checkSameSystem(data, upstream);
    if (label === undefined) checkState(data);
    checkNotAhead(needed, upstream);
    if (timeline > upstream.identity.timeline) throw aheadOfTimeline(timeline, upstream);
  };
  const build = async (making: Making): Promise<BuiltServer> => {
    await checkInHistory(making, { timeline, needed });
    const start = await startForRedo(making.client, making.upstream, redo);
    await checkServed(making, start);
    await makeStandby(dataDirectory, { user });
    const settings = {
      data_directory: dataDirectory === own ? DATA_DIRECTORY : dataDirectory,
      ...(binDirectory === undefined ? {} : { postgres_bin_directory: binDirectory }),
    };
    return { start, programs, server: { dataDirectory, user, settings } };
  };
  // A data directory may have been put where a node has it.
  const mayHold = dataDirectory === own ? [DATA_DIRECTORY] : [];
  return makeNode(doors, options, { check, build, mayHold, leaves: [] }, signal);
}

async function checkStopped(dataDirectory: string): Promise<void> {
  const running = await runningServer(dataDirectory);
  if (running === undefined) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_IN_USE,
    `data directory "${dataDirectory}" is in use by a running server (PID ${running.pid})`,
    { hint: 'Stop it first, with "pg_ctl stop".' },
  );
}

function checkSameMajor(major: number, upstream: UpstreamFacts): void {
  if (major === upstream.major) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory is of PostgreSQL ${major}, the upstream is PostgreSQL ${upstream.major}`,
    { hint: 'WAL can be replayed by the same major version only.' },
  );
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

/**
 * The last byte of WAL known to be needed: of the last checkpoint's record, of which only the start
 * is known, or before the point at which a standby is consistent.
 */
function lastNeeded({ checkpoint, minRecoveryPoint }: ControlData): Lsn {
  return minRecoveryPoint > checkpoint ? lsn(minRecoveryPoint - 1n) : checkpoint;
}

function checkNotAhead(needed: Lsn, { identity }: UpstreamFacts): void {
  if (needed < identity.walEnd) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory needs WAL at ${formatLsn(needed)}, ahead of the upstream at ` +
      formatLsn(identity.walEnd),
    { hint: 'Name the server that it followed, or one that has received as much.' },
  );
}

const MAY_FOLLOW: readonly string[] = ['shut down', 'shut down in recovery', 'in archive recovery'];

function aheadOfTimeline(timeline: number, { identity }: UpstreamFacts): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory is on timeline ${timeline}, the upstream on timeline ${identity.timeline}`,
    { hint: 'Name the server that was promoted, or one below it.' },
  );
}

/**
 * Throws 55000 if the upstream's history has other WAL there, as that of a standby has which was
 * promoted before its primary ended: then the two are different databases.
 */
async function checkInHistory(
  { client, upstream }: Making,
  { timeline, needed }: { timeline: TimelineId; needed: Lsn },
): Promise<void> {
  const history = await readHistory(client, upstream.identity.timeline);
  const owner = timelineOf(history, needed);
  if (owner === timeline) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    "data directory is not in the upstream's history",
    {
      detail:
        `It needs WAL at ${formatLsn(needed)} on timeline ${timeline}; there the history of ` +
        `timeline ${history.timeline} is on timeline ${owner}.`,
      hint: 'Run pg_rewind on it, or take a base backup.',
    },
  );
}

/** Throws what the upstream answers when asked for the WAL that recovery begins with. */
async function checkServed({ upstream, connect }: Making, start: Lsn): Promise<void> {
  const { timeline } = upstream.identity;
  const client: ReplicationClient = await connect();
  try {
    await client.query('IDENTIFY_SYSTEM');
    await client.startCopyBoth(formatStartReplication({ start, timeline }));
    // What is missing is told after CopyBoth, what is there begins to come.
    await client.next().then(({ type, body }) => {
      if (type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(body);
    });
  } catch (error) {
    const { sqlstate, message } = asWalcadeError(error);
    if (sqlstate !== SQLSTATE.UNDEFINED_FILE) throw error;
    throw new WalcadeError(sqlstate, message, {
      detail: `Recovery of the data directory begins at ${formatLsn(start)}.`,
      hint: 'Name an upstream that still has this WAL, or take a new base backup.',
      cause: error,
    });
  } finally {
    client.connection.close();
  }
}
