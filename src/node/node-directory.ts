/**
 * The directory of a node: what is one, and what is where in it. No path in it is absolute, so a
 * stopped node can be copied.
 */
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { CONTROL_FILE } from '../store/control-file-name.ts';

export const CONTROL_SOCKET = 'walcade.sock';
export const SLOT_DIRECTORY = 'pg_replslot';
/** The attached server's data directory, unless it is elsewhere. */
export const DATA_DIRECTORY = 'data';
/** Sockets between the node and its attached server: no one else can enter. */
export const PRIVATE_DIRECTORY = 'private';

/** Throws 58P01 unless `directory` is a node's. */
export async function checkNodeDirectory(directory: string): Promise<void> {
  try {
    await fs.access(join(directory, CONTROL_FILE));
  } catch (error) {
    const isThere = await fs.stat(directory).then(
      () => true,
      () => false,
    );
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      isThere
        ? `directory "${directory}" is not a walcade node`
        : `directory "${directory}" does not exist`,
      {
        detail: `Could not open "${CONTROL_FILE}" in it: ${describeSystemError(error)}.`,
        hint: `Make a node with "walcade init -D ${directory} --upstream CONNINFO".`,
      },
    );
  }
}
