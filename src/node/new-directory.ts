/**
 * The directory of a node that is being made: empty at first, written last, gone again when
 * something goes wrong between.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { type Disk, writeFileDurably } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';
import { CONF_FILE_NAME } from '../config/conf-file.ts';
import { hbaTemplate } from '../config/config-template.ts';
import { HBA_FILE_NAME } from '../config/hba.ts';
import type { ServerUser } from '../postgres/server-user.ts';
import { ControlFile } from '../store/control-file.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import type { Lsn } from '../wal/lsn.ts';
import { SLOT_DIRECTORY } from './node-directory.ts';
import { readPlace } from './node-place.ts';
import { openToServer } from './open-to-server.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

export interface NewNode {
  directory: string;
  name: string;
  /** The text of walcade.conf. */
  config: string;
  upstream: UpstreamFacts;
  /** Where the store begins. */
  start: Lsn;
  /** On the upstream. */
  slot: string | undefined;
  server: { dataDirectory: string; user: ServerUser | undefined } | undefined;
}

/** Writes a node's files. The control file comes last: a directory with one is a node. */
export async function writeNode(disk: Disk, node: NewNode): Promise<void> {
  const { directory, name, config, upstream, start, slot = '', server } = node;
  await disk.makeDirectory(join(directory, WAL_DIRECTORY));
  if (server?.user !== undefined) await openToServer(directory, server.user);
  await disk.makeDirectory(join(directory, SLOT_DIRECTORY));
  await writeFileDurably(disk, join(directory, CONF_FILE_NAME), Buffer.from(config));
  await writeFileDurably(disk, join(directory, HBA_FILE_NAME), Buffer.from(hbaTemplate()));
  const { identity, segmentBytes, settings } = upstream;
  await ControlFile.create(disk, directory, {
    nodeId: randomUUID(),
    systemIdentifier: identity.systemIdentifier,
    segmentBytes,
    upstreamSettings: settings,
    timeline: identity.timeline,
    walk: { from: start, startsAt: 'segment' },
    flushed: start,
    cleanShutdown: true,
    place: await readPlace(directory, {
      name,
      primarySlotName: slot,
      dataDirectory: server?.dataDirectory,
    }),
  });
}

/**
 * Makes the directory, or takes one that is there and holds nothing but `mayHold`; returns whether
 * it was made.
 */
export async function makeEmptyDirectory(
  directory: string,
  { mayHold }: { mayHold: readonly string[] },
): Promise<boolean> {
  try {
    await fs.mkdir(directory, { mode: 0o700 });
    return true;
  } catch (error) {
    if (systemErrorCode(error) !== 'EEXIST') {
      throw new WalcadeError(
        SQLSTATE.IO_ERROR,
        `could not create directory "${directory}": ${describeSystemError(error)}`,
        { hint: 'The directory above it must exist, and be yours to write into.' },
      );
    }
  }
  const names = await fs.readdir(directory);
  if (names.every((name) => mayHold.includes(name))) {
    // What root writes into is root's, or its owner could put links there.
    if (process.geteuid?.() === 0) await fs.chown(directory, 0, 0);
    return false;
  }
  throw new WalcadeError(
    SQLSTATE.DUPLICATE_FILE,
    `directory "${directory}" exists but is not empty`,
    { hint: 'Empty it, or choose another directory with -D.' },
  );
}

/** Takes back what was written; `keep` names what is not ours to remove. */
export async function emptyDirectory(
  directory: string,
  { isMade, keep }: { isMade: boolean; keep: readonly string[] },
): Promise<void> {
  const names = await fs.readdir(directory);
  for (const name of names.filter((each) => !keep.includes(each))) {
    await fs.rm(join(directory, name), { recursive: true, force: true });
  }
  if (isMade && !names.some((each) => keep.includes(each))) await fs.rmdir(directory);
}

/** Where the Unix sockets of a new node go: the usual places that can be written to. */
export async function socketDirectories(): Promise<string[]> {
  const writable: string[] = [];
  for (const directory of ['/tmp', '/var/run/postgresql']) {
    const isWritable = await fs.access(directory, fs.constants.W_OK).then(
      () => true,
      () => false,
    );
    if (isWritable) writable.push(directory);
  }
  return writable;
}
