/**
 * Whether a node's directory is the one that it was, or a copy of it.
 *
 * A copy has the original's identity, slots and claims in it and must have none of them: its
 * downstreams are others, and two nodes of one identity would take each other for a loop. A
 * directory that is elsewhere under the same name was moved, one that stayed may be renamed; both
 * go on as they were. Elsewhere *and* under another name, it is a copy.
 */
import type { BigIntStats } from 'node:fs';
import fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { ifThere } from '../base/file-access-error.ts';
import type { NodePlace } from '../store/control-file.ts';
import { slotNameOf } from './slot-name.ts';

/** Whether the node `now` is a copy of the one that last started at `recorded`. */
export function isCopy(recorded: NodePlace, now: NodePlace): boolean {
  return recorded.directory !== now.directory && recorded.name !== now.name;
}

/**
 * The slot on the upstream that the copy `now` is to have instead of the original's, over which
 * the two would fight; undefined if it has none, or one that was chosen for it.
 */
export function slotOfCopy(recorded: NodePlace, now: NodePlace): string | undefined {
  const { primarySlotName: slot = '' } = now;
  const { primarySlotName: original = slotNameOf(recorded.name) } = recorded;
  return slot !== '' && slot === original ? slotNameOf(now.name) : undefined;
}

/**
 * Where the node is now; `dataDirectory` is that of its attached server, if it has one. What is
 * missing has no identity.
 */
export async function readPlace(
  directory: string,
  {
    name,
    primarySlotName,
    dataDirectory,
  }: { name: string; primarySlotName: string; dataDirectory: string | undefined },
): Promise<NodePlace> {
  const tablespaces: Record<string, string> = {};
  const identity = identityOf(await statOf(directory));
  const place = { name, primarySlotName, directory: identity, tablespaces };
  if (dataDirectory === undefined) return place;
  for (const { oid, location } of await tablespacesOf(dataDirectory)) {
    const tablespace = await ifThere(statOf(location));
    if (tablespace !== undefined) tablespaces[oid] = identityOf(tablespace);
  }
  const data = await ifThere(statOf(dataDirectory));
  return data === undefined ? place : { ...place, dataDirectory: identityOf(data) };
}

/** The tablespaces of a data directory that lie outside of it, by the links in pg_tblspc. */
export async function tablespacesOf(
  dataDirectory: string,
): Promise<{ oid: string; location: string }[]> {
  const folder = join(dataDirectory, 'pg_tblspc');
  const found: { oid: string; location: string }[] = [];
  for (const oid of (await ifThere(fs.readdir(folder))) ?? []) {
    const target = await fs.readlink(join(folder, oid)).catch(() => undefined);
    if (target !== undefined) found.push({ oid, location: resolve(folder, target) });
  }
  return found;
}

/**
 * Throws 55006 if the copy `now` has its data directory or a tablespace in common with the node
 * that it was copied from: two servers would write into the same files.
 */
export function checkFilesOfCopy(recorded: NodePlace, now: NodePlace): void {
  if (now.dataDirectory !== undefined && now.dataDirectory === recorded.dataDirectory) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_IN_USE,
      `data directory is the same as that of node "${recorded.name}"`,
      {
        detail: `This node was copied from "${recorded.name}", its data directory was not.`,
        hint: 'Copy the data directory too, and set "data_directory" to the copy.',
      },
    );
  }
  for (const [oid, identity] of Object.entries(now.tablespaces)) {
    if (recorded.tablespaces[oid] !== identity) continue;
    throw new WalcadeError(
      SQLSTATE.OBJECT_IN_USE,
      `tablespace ${oid} is the same directory as that of node "${recorded.name}"`,
      {
        detail: `This node was copied from "${recorded.name}", its tablespaces were not.`,
        hint:
          `Copy the tablespace's directory too, and let the link "pg_tblspc/${oid}" in this ` +
          "node's data directory point at the copy.",
      },
    );
  }
}

/** Inode and time of birth: the device's number may change from one boot to the next. */
function identityOf({ ino, birthtimeNs }: BigIntStats): string {
  return `${ino}:${birthtimeNs}`;
}

function statOf(path: string): Promise<BigIntStats> {
  return fs.stat(path, { bigint: true });
}
