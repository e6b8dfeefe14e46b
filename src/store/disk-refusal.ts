/** What is said when the disk does not do what the store asks of it. */
import { AssertionFailed } from '../base/assert.ts';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';

/** An fsync that failed is not tried again: the next one could succeed without the data. */
export class FsyncFailed extends WalcadeError {}

/**
 * A system error of doing something to `what`, as a WalcadeError (of a failed fsync: FsyncFailed);
 * one that is one already stays. Throws an invariant that broke: the disk is not to blame.
 */
export function diskRefusal(
  error: unknown,
  action: 'read' | 'write' | 'fsync' | 'save' | 'remove',
  what = 'WAL',
): WalcadeError {
  if (error instanceof AssertionFailed) throw error;
  if (error instanceof WalcadeError) return error;
  const isFull = systemErrorCode(error) === 'ENOSPC';
  const Refusal = action === 'fsync' ? FsyncFailed : WalcadeError;
  return new Refusal(
    isFull ? SQLSTATE.DISK_FULL : SQLSTATE.IO_ERROR,
    `could not ${action} ${what}: ${describeSystemError(error)}`,
    {
      hint: isFull ? HINT_FULL : undefined,
      detail: isFull && what === 'WAL' ? DETAIL_FULL : undefined,
      cause: error,
    },
  );
}

const HINT_FULL = 'Free disk space in the node\'s directory, or lower "wal_keep_size".';
const DETAIL_FULL = 'The upstream connection is closed until there is room again.';
