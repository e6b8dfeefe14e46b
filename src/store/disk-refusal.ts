/** What is said when the disk does not do what the store asks of it. */
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';

/** A system error of writing or syncing WAL, as a WalcadeError; one that is one already stays. */
export function diskRefusal(error: unknown, action: 'write' | 'fsync'): WalcadeError {
  if (error instanceof WalcadeError) return error;
  const why = describeSystemError(error);
  if (systemErrorCode(error) === 'ENOSPC') {
    return new WalcadeError(SQLSTATE.DISK_FULL, `could not ${action} WAL: ${why}`, {
      detail: 'The upstream connection is closed until there is room again.',
      hint: 'Free disk space in the node\'s directory, or lower "wal_keep_size".',
      cause: error,
    });
  }
  return new WalcadeError(SQLSTATE.IO_ERROR, `could not ${action} WAL: ${why}`, { cause: error });
}
