/**
 * What went wrong in the world: network, disk, peer or operator.
 *
 * A WalcadeError becomes, unchanged, the fields of an ErrorResponse, a log entry or what the
 * command line prints, so its texts follow PostgreSQL's error message style guide.
 */

/** PostgreSQL's error codes (manual, appendix "PostgreSQL Error Codes") that walcade uses. */
export const SQLSTATE = {
  FEATURE_NOT_SUPPORTED: '0A000',
  CONNECTION_FAILURE: '08006',
  UNABLE_TO_CONNECT: '08001',
  CONNECTION_REJECTED: '08004',
  PROTOCOL_VIOLATION: '08P01',
  INVALID_PARAMETER_VALUE: '22023',
  INVALID_TEXT_REPRESENTATION: '22P02',
  INVALID_AUTHORIZATION: '28000',
  INVALID_PASSWORD: '28P01',
  EXTERNAL_ROUTINE_EXCEPTION: '38000',
  SYNTAX_ERROR: '42601',
  INSUFFICIENT_PRIVILEGE: '42501',
  INVALID_NAME: '42602',
  UNDEFINED_OBJECT: '42704',
  DUPLICATE_OBJECT: '42710',
  DISK_FULL: '53100',
  OUT_OF_MEMORY: '53200',
  TOO_MANY_CONNECTIONS: '53300',
  CONFIGURATION_LIMIT_EXCEEDED: '53400',
  PROGRAM_LIMIT_EXCEEDED: '54000',
  OBJECT_NOT_IN_PREREQUISITE_STATE: '55000',
  OBJECT_IN_USE: '55006',
  QUERY_CANCELED: '57014',
  ADMIN_SHUTDOWN: '57P01',
  CANNOT_CONNECT_NOW: '57P03',
  IO_ERROR: '58030',
  UNDEFINED_FILE: '58P01',
  DUPLICATE_FILE: '58P02',
  CONFIG_FILE_ERROR: 'F0000',
  LOCK_FILE_EXISTS: 'F0001',
  INTERNAL_ERROR: 'XX000',
  DATA_CORRUPTED: 'XX001',
} as const;

export interface WalcadeErrorOptions {
  /** Facts, in full sentences. */
  detail?: string | undefined;
  /** What to do, in full sentences; it may not apply. */
  hint?: string | undefined;
  cause?: unknown;
}

export class WalcadeError extends Error {
  override readonly name = 'WalcadeError';
  readonly sqlstate: string;
  readonly detail: string | undefined;
  readonly hint: string | undefined;

  constructor(
    sqlstate: string,
    message: string,
    { detail, hint, cause }: WalcadeErrorOptions = {},
  ) {
    super(message, { cause });
    this.sqlstate = sqlstate;
    this.detail = detail;
    this.hint = hint;
  }
}

/** The `code` of a Node.js system error (`ENOENT`, `ECONNREFUSED`, …), if `error` is one. */
export function systemErrorCode(error: unknown): string | undefined {
  if (!(error instanceof Error) || !('code' in error)) return undefined;
  return typeof error.code === 'string' ? error.code : undefined;
}

const STRERROR: Record<string, string> = {
  EACCES: 'Permission denied',
  EADDRINUSE: 'Address already in use',
  EADDRNOTAVAIL: 'Cannot assign requested address',
  EBUSY: 'Device or resource busy',
  ECONNREFUSED: 'Connection refused',
  ECONNRESET: 'Connection reset by peer',
  EDQUOT: 'Disk quota exceeded',
  EEXIST: 'File exists',
  EHOSTUNREACH: 'No route to host',
  EIO: 'Input/output error',
  EISDIR: 'Is a directory',
  ELOOP: 'Too many levels of symbolic links',
  EMFILE: 'Too many open files',
  ENAMETOOLONG: 'File name too long',
  ENETUNREACH: 'Network is unreachable',
  ENOENT: 'No such file or directory',
  ENOSPC: 'No space left on device',
  ENOTDIR: 'Not a directory',
  ENOTEMPTY: 'Directory not empty',
  ENOTFOUND: 'Name or service not known',
  EPERM: 'Operation not permitted',
  EPIPE: 'Broken pipe',
  EROFS: 'Read-only file system',
  ETIMEDOUT: 'Connection timed out',
};

/** The text that C's strerror() gives for a system error, as PostgreSQL's `%m` shows it. */
export function describeSystemError(error: unknown): string {
  const code = systemErrorCode(error);
  const known = code === undefined ? undefined : STRERROR[code];
  if (known !== undefined) return known;
  return error instanceof Error ? error.message : String(error);
}

/** Any thrown value as a WalcadeError: itself if it is one, else an internal error around it. */
export function asWalcadeError(error: unknown): WalcadeError {
  if (error instanceof WalcadeError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new WalcadeError(SQLSTATE.INTERNAL_ERROR, message, { cause: error });
}
