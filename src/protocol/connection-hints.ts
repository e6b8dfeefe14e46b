/**
 * What to do when a server does not let us in, for refusals that come without a hint of their own:
 * a rule from SQLSTATE and text to one sentence.
 */
import { SQLSTATE, type WalcadeError } from '../base/errors.ts';
import { ConnectionLost } from './connection.ts';

const IS_POSTGRES = 'Is that server PostgreSQL, or a walcade node?';

/** The hint for a connection that was not made; undefined when nothing general can be said. */
export function connectionHint(error: WalcadeError, user: string): string | undefined {
  if (error.hint !== undefined) return error.hint;
  const { sqlstate, message } = error;
  if (error instanceof ConnectionLost) return IS_POSTGRES;
  switch (sqlstate) {
    case SQLSTATE.PROTOCOL_VIOLATION:
      return IS_POSTGRES;
    case SQLSTATE.INVALID_AUTHORIZATION:
      return message.includes('pg_hba.conf')
        ? `Let user "${user}" in for replication by a line in pg_hba.conf of that server.`
        : `Create role "${user}" there with REPLICATION and LOGIN, or name another with user=….`;
    case SQLSTATE.INVALID_PASSWORD:
      return 'Check the password in the conninfo, or the line for this server in ~/.pgpass.';
    case SQLSTATE.INSUFFICIENT_PRIVILEGE:
      return `Give it on the primary, with ALTER ROLE ${user} REPLICATION.`;
    case SQLSTATE.TOO_MANY_CONNECTIONS:
      return 'Raise max_wal_senders on that server; with wal_level = minimal it can only be 0.';
    case SQLSTATE.CANNOT_CONNECT_NOW:
      return 'Try again when that server has started.';
    default:
      return undefined;
  }
}
