/**
 * What a start does first: finds out whether the node still is where it was, and makes a copy a
 * node of its own, with another identity, none of the original's slots, and a slot on the upstream
 * that is named after itself, unless another than the original's was chosen for it.
 *
 * The control file is written last, when all else is durable. A start that ends before that finds
 * the copy again and does what is left to do.
 */
import { randomUUID } from 'node:crypto';
import fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { type Disk, writeFileDurably } from '../base/disk.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import type { Log } from '../base/log.ts';
import { CONF_FILE_NAME, loadConfig, setParameter } from '../config/conf-file.ts';
import { removeServerSlots } from '../postgres/server-slots.ts';
import { serverUser } from '../postgres/server-user.ts';
import type { ControlFile, NodePlace } from '../store/control-file.ts';
import { SLOT_DIRECTORY } from './node-directory.ts';
import { checkFilesOfCopy, isCopy, readPlace, slotOfCopy } from './node-place.ts';

export interface SettleOptions {
  disk: Disk;
  log: Log;
  directory: string;
  control: ControlFile;
}

/** Throws 55006 if the node is a copy that shares its data or a tablespace with the original. */
export async function settlePlace(options: SettleOptions): Promise<void> {
  const { directory, control } = options;
  const config = await loadConfig(directory);
  const dataDirectory = config.dataDirectory ? resolve(directory, config.dataDirectory) : undefined;
  const { clusterName: name, primarySlotName } = config;
  const place = await readPlace(directory, { name, primarySlotName, dataDirectory });
  const from = control.data.place;
  if (from !== undefined && isCopy(from, place)) {
    await settleCopy(options, { from, to: place, dataDirectory });
  } else if (!isDeepStrictEqual(from, place)) {
    await control.update({ place });
  }
}

/** Notes the slot that a reload has brought: a copy that is made later is told by it. */
export async function noteSlot(control: ControlFile, primarySlotName: string): Promise<void> {
  await control.update(({ place }) => (place ? { place: { ...place, primarySlotName } } : {}));
}

async function settleCopy(
  { disk, log, directory, control }: SettleOptions,
  {
    from,
    to,
    dataDirectory,
  }: { from: NodePlace; to: NodePlace; dataDirectory: string | undefined },
): Promise<void> {
  checkFilesOfCopy(from, to);
  const slots = await removeSlots(disk, join(directory, SLOT_DIRECTORY));
  if (dataDirectory !== undefined) {
    await removeServerSlots(disk, dataDirectory, await serverUser(dataDirectory));
  }
  const nodeId = randomUUID();
  const facts = [`Its identity is ${nodeId} now.`];
  if (slots.length > 0) facts.push(`Replication slots that were removed: ${slots.join(', ')}.`);
  const slot = slotOfCopy(from, to);
  if (slot !== undefined) {
    await setSlotName(disk, directory, slot);
    facts.push(`Its slot on the upstream is "${slot}" now, in ${CONF_FILE_NAME} too.`);
  }
  const primarySlotName = slot ?? to.primarySlotName;
  await control.update({ nodeId, place: { ...to, primarySlotName } });
  log.log(`this node is a copy of node "${from.name}"`, facts.join(' '));
}

async function setSlotName(disk: Disk, directory: string, slot: string): Promise<void> {
  const path = join(directory, CONF_FILE_NAME);
  const text = await fs.readFile(path, 'utf8');
  await writeFileDurably(disk, path, Buffer.from(setParameter(text, 'primary_slot_name', slot)));
}

/** Removes the node's slots, durably; their names. */
async function removeSlots(disk: Disk, directory: string): Promise<string[]> {
  const listed = await ifThere(disk.list(directory));
  if (listed === undefined) return [];
  const files = listed.filter((file) => file.endsWith('.json'));
  for (const file of files) {
    const path = join(directory, file);
    await accessing('remove file', path, () => disk.remove(path));
  }
  // Also if there are none: a start that was killed may have removed them, and not for good.
  await accessing('fsync file', directory, () => disk.syncDirectory(directory));
  return files.map((file) => file.slice(0, -'.json'.length));
}
