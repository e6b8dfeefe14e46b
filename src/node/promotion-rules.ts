/** Whether a node may be promoted now: decisions of values, and what is said of those against. */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { AttachedStatus } from '../postgres/attached-server.ts';
import type { ReceiverStatus } from '../receiver/wal-receiver.ts';
import { INVALID_LSN, type Lsn, distance, formatLsn } from '../wal/lsn.ts';

/** How far the node is, and how far its upstream has said to be. */
export interface UpstreamLag {
  received: Lsn;
  upstreamWalEnd: Lsn | undefined;
}

/** How far the node is: what a full disk has refused is in memory only, and is lost then. */
export function receivedOf({
  received,
  written,
  failure,
}: {
  received: Lsn;
  written: Lsn;
  failure: WalcadeError | undefined;
}): Lsn {
  return failure === undefined ? received : written;
}

/** Whether the upstream may be there and has not said how far it is: it does so when it streams. */
export function isAboutToTell({
  state,
  reason,
  upstreamWalEnd,
}: Pick<ReceiverStatus, 'state' | 'reason' | 'upstreamWalEnd'>): boolean {
  if (upstreamWalEnd !== undefined) return false;
  return state === 'streaming' || (state === 'connecting' && reason === undefined);
}

/** What of the upstream's WAL is not here: it would be lost to the new timeline. */
export function missingBytes({ received, upstreamWalEnd = INVALID_LSN }: UpstreamLag): number {
  return upstreamWalEnd > received ? distance(received, upstreamWalEnd) : 0;
}

/** What is against a promotion, whatever has been received; undefined if nothing is. */
export function promotionRefusal(
  server: Pick<AttachedStatus, 'state' | 'role' | 'reason'> | undefined,
): WalcadeError | undefined {
  if (server === undefined) {
    return new WalcadeError(
      SQLSTATE.FEATURE_NOT_SUPPORTED,
      'cannot promote node; it is a relay, which has no PostgreSQL server',
      { hint: 'Promote a node that was made with --with-postgres, or a standby.' },
    );
  }
  if (server.role === 'primary') {
    return refusal('cannot promote node; its server is not in standby mode', {
      detail: 'It is a primary already.',
    });
  }
  if (server.role === 'promoting') {
    return refusal('cannot promote node; its server is being promoted already', {
      hint: 'Wait until it takes writes; "walcade status" shows it.',
    });
  }
  if (server.state === 'ready') return undefined;
  return refusal(`cannot promote node; its server is not ready but ${server.state}`, {
    detail: server.reason,
    hint: 'Wait until it accepts connections; "walcade status" shows it.',
  });
}

/** Against a promotion that would lose WAL. */
export function behindUpstream(lag: UpstreamLag): WalcadeError {
  const upstream = formatLsn(lag.upstreamWalEnd ?? INVALID_LSN);
  return refusal(`cannot promote node; it is ${missingBytes(lag)} bytes behind its upstream`, {
    detail: `It has received WAL up to ${formatLsn(lag.received)}, its upstream is at ${upstream}.`,
    hint: 'Wait until it has caught up, or use --force to do without the rest for ever.',
  });
}

/** Where a promotion under way has come to, by its server. */
export type PromotionProgress = 'waiting' | 'done' | 'broken-off';

/**
 * The server has taken the request if its role ever was another one: back in the role of a standby
 * it has broken the promotion off. A primary that is down comes up again as one.
 */
export function promotionProgress(
  { role, state }: Pick<AttachedStatus, 'role' | 'state'>,
  { takesWrites, wasTaken }: { takesWrites: boolean; wasTaken: boolean },
): PromotionProgress {
  if (takesWrites) return 'done';
  if (role === 'standby' && (wasTaken || state !== 'ready')) return 'broken-off';
  return 'waiting';
}

function refusal(
  message: string,
  options: { detail?: string | undefined; hint?: string },
): WalcadeError {
  return new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, message, options);
}
