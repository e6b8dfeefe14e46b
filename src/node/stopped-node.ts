/**
 * A node that does not run, with its data directory, in which no server runs either: what a command
 * that changes both has to know of them.
 */
import fs from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import { loadConfig } from '../config/conf-file.ts';
import type { NodeConfig } from '../config/parameters.ts';
import { type ServerPrograms, findServerPrograms } from '../postgres/server-programs.ts';
import { type ServerUser, serverUser } from '../postgres/server-user.ts';
import { type ControlData, readControlData } from '../store/control-file.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import { checkFilesOfCopy, isCopy, readPlace, slotOfCopy } from './node-place.ts';

export interface StoppedNode {
  readonly directory: string;
  readonly config: NodeConfig;
  /** Of its store. */
  readonly control: ControlData;
  /** Absolute, and no link. */
  readonly dataDirectory: string;
  /** Its own pg_wal. */
  readonly walDirectory: string;
  /** PostgreSQL's major version, of its WAL and its server. */
  readonly major: number;
  readonly programs: ServerPrograms;
  /** Who runs the server; undefined: we do. */
  readonly user: ServerUser | undefined;
  /** What its slot on an upstream is called. */
  readonly slot: string | undefined;
}

/** Where the data directory of the node in `directory` is; throws 55000 if it has no server. */
export async function findDataDirectory(directory: string): Promise<string> {
  const { dataDirectory } = await loadConfig(directory);
  if (dataDirectory === '') throw withoutServer(directory);
  return targetOf(resolve(directory, dataDirectory));
}

/**
 * Reads the node in `directory`, whose data directory is there. Throws 58P01 if PostgreSQL's
 * programs are not found, 55006 if it is a copy that has its files in common with the original.
 */
export async function readStoppedNode(
  disk: Disk,
  {
    directory,
    dataDirectory,
    binDirectory,
  }: { directory: string; dataDirectory: string; binDirectory: string | undefined },
): Promise<StoppedNode> {
  const config = await loadConfig(directory);
  const control = await readControlData(disk, directory);
  const major = Math.floor(Number(control.upstreamSettings['server_version_num'] ?? 0) / 10_000);
  const user = await serverUser(dataDirectory);
  const programs = await findServerPrograms({
    major,
    directory: binDirectory ?? (config.postgresBinDirectory || undefined),
    user,
  });
  const slot = await ownSlot(directory, { config, control, dataDirectory });
  const walDirectory = join(directory, WAL_DIRECTORY);
  return { directory, config, control, dataDirectory, walDirectory, major, programs, user, slot };
}

/** What a path leads to, which need not be there: what is renamed is no link. */
async function targetOf(path: string): Promise<string> {
  return accessing('open directory', path, async () => {
    const link = await fs.readlink(path).catch(() => undefined);
    const target = link === undefined ? path : resolve(dirname(path), link);
    return (await ifThere(fs.realpath(target))) ?? target;
  });
}

/** A copy is to have a slot of its own, which its first start would give it. */
async function ownSlot(
  directory: string,
  {
    config,
    control,
    dataDirectory,
  }: { config: NodeConfig; control: ControlData; dataDirectory: string },
): Promise<string | undefined> {
  const { clusterName: name, primarySlotName } = config;
  const { place: recorded } = control;
  const now = await readPlace(directory, { name, primarySlotName, dataDirectory });
  if (recorded === undefined || !isCopy(recorded, now)) return primarySlotName || undefined;
  checkFilesOfCopy(recorded, now);
  return slotOfCopy(recorded, now) ?? (primarySlotName || undefined);
}

function withoutServer(directory: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `node in "${directory}" has no PostgreSQL server`,
    {
      detail: 'A relay has only WAL, and follows whatever server is promoted.',
      hint: 'Point it at another upstream with "walcade follow".',
    },
  );
}
