/**
 * What is said, and with which SQLSTATE, when a file cannot be used as it should be; and that it
 * is not there, where this is no error.
 */
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from './errors.ts';

/** What there is no SQLSTATE for in this table is an input/output error. */
const SQLSTATES: Record<string, string> = {
  EACCES: SQLSTATE.INSUFFICIENT_PRIVILEGE,
  EPERM: SQLSTATE.INSUFFICIENT_PRIVILEGE,
  EROFS: SQLSTATE.INSUFFICIENT_PRIVILEGE,
  ENOENT: SQLSTATE.UNDEFINED_FILE,
  EEXIST: SQLSTATE.DUPLICATE_FILE,
  ENOSPC: SQLSTATE.DISK_FULL,
  EDQUOT: SQLSTATE.DISK_FULL,
};

/**
 * The system error of doing something to `path`, worded as PostgreSQL does (elog.c,
 * errcode_for_file_access()): `could not create file "…": Permission denied`. `action` names the
 * kind of file too. What is no system error is given back as it is.
 */
export function fileAccessError(error: unknown, action: string, path: string | Buffer): unknown {
  const code = systemErrorCode(error);
  if (code === undefined) return error;
  const message = `could not ${action} "${path.toString()}": ${describeSystemError(error)}`;
  return new WalcadeError(SQLSTATES[code] ?? SQLSTATE.IO_ERROR, message, { cause: error });
}

/** Gives what `use` gives; its system errors as `fileAccessError` words them. */
export async function accessing<T>(
  action: string,
  path: string | Buffer,
  use: () => Promise<T>,
): Promise<T> {
  try {
    return await use();
  } catch (error) {
    throw fileAccessError(error, action, path);
  }
}

/** What was asked of a file; undefined if there is none (ENOENT). */
export async function ifThere<T>(result: Promise<T>): Promise<T | undefined> {
  try {
    return await result;
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
