/**
 * What target_session_attrs asks of a server, decided as libpq does (fe-connect.c,
 * PQconnectPoll(), CONNECTION_CHECK_TARGET): by what servers report of themselves from PostgreSQL
 * 14 on, else by what SHOW answers, which a replication connection may ask too.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

export type SessionAttributes =
  | 'any'
  | 'read-write'
  | 'read-only'
  | 'primary'
  | 'standby'
  | 'prefer-standby';

export interface AskedServer {
  /** What it reported at connection start. */
  readonly parameters: ReadonlyMap<string, string>;
  /** Asks for a setting. */
  show(name: string): Promise<string | undefined>;
}

/** Throws 08004 unless the server is what is wanted, 0A000 if that cannot be told. */
export async function checkSessionAttributes(
  wanted: SessionAttributes,
  server: AskedServer,
): Promise<void> {
  if (wanted === 'read-write' || wanted === 'read-only') {
    if ((await isReadOnly(server)) === (wanted === 'read-only')) return;
    throw refused(wanted === 'read-only' ? 'session is not read-only' : 'session is read-only');
  }
  if (wanted !== 'primary' && wanted !== 'standby') return;
  const isStandby = await isHotStandby(server);
  if (isStandby === undefined) {
    throw new WalcadeError(
      SQLSTATE.FEATURE_NOT_SUPPORTED,
      'server does not report whether it is in hot standby mode',
      { hint: 'Servers older than PostgreSQL 14 do not; use target_session_attrs=any with them.' },
    );
  }
  if (isStandby === (wanted === 'standby')) return;
  throw refused(isStandby ? 'server is in hot standby mode' : 'server is not in hot standby mode');
}

/**
 * Before PostgreSQL 14 a server does not report whether it is in recovery, but a transaction of a
 * standby is always read-only. On a primary it can be so by a setting: then nobody knows.
 */
export async function isHotStandby(server: AskedServer): Promise<boolean | undefined> {
  const reported = server.parameters.get('in_hot_standby');
  if (reported !== undefined) return reported === 'on';
  if ((await server.show('transaction_read_only')) === 'off') return false;
  return (await server.show('default_transaction_read_only')) === 'on' ? undefined : true;
}

async function isReadOnly(server: AskedServer): Promise<boolean> {
  const isStandby = server.parameters.get('in_hot_standby');
  if (isStandby === undefined) return (await server.show('transaction_read_only')) === 'on';
  return isStandby === 'on' || server.parameters.get('default_transaction_read_only') === 'on';
}

function refused(message: string): WalcadeError {
  return new WalcadeError(SQLSTATE.CONNECTION_REJECTED, message);
}
