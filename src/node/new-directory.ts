/** The files of a new node, which are written when all else that it needs is there. */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { type Disk, writeFileDurably } from '../base/disk.ts';
import { accessing } from '../base/file-access-error.ts';
import { CONF_FILE_NAME } from '../config/conf-file.ts';
import { hbaTemplate } from '../config/config-template.ts';
import { HBA_FILE_NAME } from '../config/hba.ts';
import type { ServerUser } from '../postgres/server-user.ts';
import { CONTROL_FILE } from '../store/control-file-name.ts';
import { ControlFile } from '../store/control-file.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import { SLOT_DIRECTORY } from './node-directory.ts';
import { readPlace } from './node-place.ts';
import { openToServer } from './open-to-server.ts';
import type { StoreStart } from './store-start.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

export interface NewNode {
  directory: string;
  name: string;
  /** The text of walcade.conf. */
  config: string;
  upstream: UpstreamFacts;
  store: StoreStart;
  /** On the upstream. */
  slot: string | undefined;
  server: { dataDirectory: string; user: ServerUser | undefined } | undefined;
}

/**
 * Writes a node's files. The control file comes last: a directory with one is a node. Throws what
 * the file system answers.
 */
export async function writeNode(disk: Disk, node: NewNode): Promise<void> {
  const { directory, name, config, upstream, slot = '', server } = node;
  const { start, timeline } = node.store;
  await makeDirectory(disk, join(directory, WAL_DIRECTORY));
  if (server?.user !== undefined) {
    const { user } = server;
    await accessing('set permissions in', directory, () => openToServer(directory, user));
  }
  await makeDirectory(disk, join(directory, SLOT_DIRECTORY));
  await writeFile(disk, join(directory, CONF_FILE_NAME), config);
  await writeFile(disk, join(directory, HBA_FILE_NAME), hbaTemplate());
  const { identity, segmentBytes, settings } = upstream;
  const place = await accessing('look at directory', directory, () =>
    readPlace(directory, {
      name,
      primarySlotName: slot,
      dataDirectory: server?.dataDirectory,
    }),
  );
  await accessing('write file', join(directory, CONTROL_FILE), () =>
    ControlFile.create(disk, directory, {
      nodeId: randomUUID(),
      systemIdentifier: identity.systemIdentifier,
      segmentBytes,
      upstreamSettings: settings,
      timeline,
      walk: { from: start, startsAt: 'segment' },
      flushed: start,
      cleanShutdown: true,
      place,
    }),
  );
}

function makeDirectory(disk: Disk, path: string): Promise<void> {
  return accessing('create directory', path, () => disk.makeDirectory(path));
}

function writeFile(disk: Disk, path: string, text: string): Promise<void> {
  return accessing('write file', path, () => writeFileDurably(disk, path, Buffer.from(text)));
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
