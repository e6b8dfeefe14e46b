/** `walcade init`: a new node, as a relay or with a PostgreSQL server made by a base backup. */
import { dirname, join, resolve } from 'node:path';
import { removeTablespaces, takeBaseBackup } from '../postgres/base-backup.ts';
import { makeStandby } from '../postgres/data-directory.ts';
import { FileChanges } from '../postgres/file-changes.ts';
import { checkReachable } from '../postgres/server-access.ts';
import { type ServerPrograms, findServerPrograms } from '../postgres/server-programs.ts';
import { serverUser } from '../postgres/server-user.ts';
import { identifySystem } from '../receiver/upstream-identity.ts';
import { readUpstreamSlot } from '../receiver/upstream-slot.ts';
import type { Lsn } from '../wal/lsn.ts';
import {
  type Built,
  type MadeNode,
  type Making,
  type MakingDoors,
  type NodeChoice,
  makeNode,
} from './make-node.ts';
import { DATA_DIRECTORY } from './node-directory.ts';
import { chooseStart, startForRedo } from './store-start.ts';

export interface InitOptions extends NodeChoice {
  startLsn: Lsn | undefined;
  /** Absent for a relay. */
  postgres?: PostgresChoice | undefined;
}

export interface PostgresChoice {
  /** Where its programs are; undefined to look for them. */
  binDirectory: string | undefined;
  tablespaceMapping: ReadonlyMap<string, string>;
  /** Whether what came of a base backup that broke off stays. */
  keep: boolean;
  onProgress: (progress: { doneBytes: number; totalBytes: number }) => void;
}

export interface BuiltServer extends Built {
  programs?: ServerPrograms;
  backupBytes?: number;
}

/** Makes a node in `options.directory`; throws what is wrong with the arguments or the upstream. */
export async function initNode(
  doors: MakingDoors,
  options: InitOptions,
  signal: AbortSignal,
): Promise<MadeNode<BuiltServer>> {
  const { postgres, startLsn } = options;
  if (postgres === undefined) {
    const build = (making: Making) => buildRelay(making, startLsn);
    const none = async (): Promise<void> => {};
    return makeNode(doors, options, { check: none, build, mayHold: [], leaves: [] }, signal);
  }
  const user = await serverUser();
  return makeNode(
    doors,
    options,
    {
      // A backup takes long: what would make it useless is found out before.
      check: async ({ major }) => {
        const directory = postgres.binDirectory;
        const programs = await findServerPrograms({ major, directory, user });
        await checkReachable(dirname(resolve(options.directory)), user);
        return programs;
      },
      build: (making, programs) => buildServer(doors, making, { postgres, programs, user }),
      mayHold: [],
      leaves: postgres.keep ? [DATA_DIRECTORY] : [],
    },
    signal,
  );
}

async function buildRelay(making: Making, asked: Lsn | undefined): Promise<Built> {
  const { client, slot, upstream } = making;
  const reserved = slot === undefined ? undefined : await readUpstreamSlot(client, slot);
  return { store: await chooseStart(client, upstream, { asked, reserved }) };
}

/** Takes a base backup into the node's directory; the slot holds the WAL that it needs. */
async function buildServer(
  { clock }: MakingDoors,
  { directory, upstream, connect, onFailure, signal }: Making,
  {
    postgres,
    programs,
    user,
  }: {
    postgres: PostgresChoice;
    programs: ServerPrograms;
    user: Awaited<ReturnType<typeof serverUser>>;
  },
): Promise<BuiltServer> {
  const { binDirectory, tablespaceMapping, keep, onProgress } = postgres;
  const dataDirectory = join(directory, DATA_DIRECTORY);
  const connection = await connect();
  try {
    const backup = await takeBaseBackup(connection, {
      serverVersionNum: upstream.versionNum,
      directory: dataDirectory,
      tablespaceMapping,
      user,
      label: 'walcade init',
      clock,
      onProgress,
      keepOnFailure: keep,
      signal,
    });
    if (!keep) onFailure(() => removeTablespaces(backup.tablespaces));
    // The upstream may have come to another timeline meanwhile. The other connection was idle,
    // perhaps for longer than the network allows.
    const identity = await identifySystem(connection);
    const store = await startForRedo(connection, { ...upstream, identity }, backup.start);
    // Nothing to take back: all goes, or what is kept is no less of a backup for it.
    await makeStandby(dataDirectory, new FileChanges(user));
    return {
      store,
      programs,
      backupBytes: backup.bytes,
      server: {
        dataDirectory,
        user,
        settings: {
          data_directory: DATA_DIRECTORY,
          ...(binDirectory === undefined ? {} : { postgres_bin_directory: binDirectory }),
        },
      },
    };
  } finally {
    await connection.close();
  }
}
