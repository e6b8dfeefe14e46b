/**
 * From where on a server needs WAL when it starts: the claim of an attached server on what its node
 * keeps.
 */
import { type Lsn, minLsn } from '../wal/lsn.ts';
import { readControlData } from './control-data.ts';
import { readBackupLabel } from './data-directory.ts';

/**
 * Where recovery in `dataDirectory` would begin now. As long as a backup's label is there it begins
 * at the backup's start, though pg_control, which a base backup sends last, may be of a later
 * checkpoint (xlogrecovery.c, InitWalRecovery()). The label is looked for first: a server sets
 * pg_control back to it before it takes it away. Throws as readControlData() does.
 */
export async function readRecoveryStart(dataDirectory: string): Promise<Lsn> {
  const label = await readBackupLabel(dataDirectory);
  const { redo } = await readControlData(dataDirectory);
  return label === undefined ? redo : minLsn(label.start, redo);
}
