/**
 * What is said of an upstream that a node is asked to follow: why it cannot be, or what comes of
 * it. The values come from src/receiver/upstream-join.ts, the words from here.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { formatBytes } from '../base/format-bytes.ts';
import type { OwnWal, UpstreamWal } from '../receiver/upstream-join.ts';
import { type PartingPoint, describePartingPoint } from '../wal/history-parting.ts';
import { type Lsn, type TimelineId, formatLsn } from '../wal/lsn.ts';

const PREREQUISITE = SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE;

export function serverLeads(): WalcadeError {
  return new WalcadeError(
    PREREQUISITE,
    'cannot follow another upstream: the attached PostgreSQL server is a primary',
    {
      detail: 'It writes WAL of its own, which this node receives.',
      hint: 'Stop the node and run "walcade rejoin" to make it a standby of another server.',
    },
  );
}

export function isBehind(address: string, own: OwnWal, upstream: UpstreamWal): WalcadeError {
  const position = ({ history }: OwnWal | UpstreamWal, lsn: Lsn): string =>
    `at ${formatLsn(lsn)} on timeline ${history.timeline}`;
  const bytes = Number(own.served - upstream.walEnd);
  const gap = bytes > 0 ? `, ${formatBytes(bytes)} behind` : '';
  const there = position(upstream, upstream.walEnd);
  const here = position(own, own.served);
  return new WalcadeError(PREREQUISITE, `upstream ${address} is behind this node`, {
    detail: `It is ${there}${gap}; this node is ${here}.`,
    hint: 'Try again when it has caught up, or follow a server that has all of this WAL.',
  });
}

export function isContested(
  address: string,
  { timeline, at }: { timeline: TimelineId; at: PartingPoint },
): WalcadeError {
  return new WalcadeError(
    PREREQUISITE,
    `timeline ${timeline} of upstream ${address} is another one than this node's`,
    {
      detail: `The two histories part ${describePartingPoint(at)}.`,
      hint: 'Follow a server whose history this node shares, or make the node anew.',
    },
  );
}

export function hasOtherWal(address: string, timeline: TimelineId, at: Lsn): WalcadeError {
  return new WalcadeError(
    PREREQUISITE,
    `timeline ${timeline} of upstream ${address} is another one than this node's`,
    {
      detail: `The two have the same history, and WAL that parts at ${formatLsn(at)}.`,
      hint: 'Follow a server whose history this node shares, or make the node anew.',
    },
  );
}

export function isTooFar(address: string, own: OwnWal, at: PartingPoint): WalcadeError {
  return new WalcadeError(
    PREREQUISITE,
    `WAL from where upstream ${address} parts from this node is not kept any more`,
    {
      detail:
        `The two histories part ${describePartingPoint(at)}; ` +
        `this node keeps WAL from ${formatLsn(own.oldest)} on.`,
      hint: 'Make the node anew.',
    },
  );
}

/** A relay may go back; a server with data pages may not. */
export function serverIsPast(address: string, own: OwnWal, at: PartingPoint): WalcadeError {
  return new WalcadeError(
    PREREQUISITE,
    `upstream ${address} goes on from a position that the attached PostgreSQL server is past`,
    {
      detail:
        `The two histories part ${describePartingPoint(at)}; ` +
        `the server has been given WAL up to ${formatLsn(own.served)}.`,
      hint: 'Stop the node and run "walcade rejoin" to take the server back to there.',
    },
  );
}

export function hasForked(address: string, own: OwnWal, at: PartingPoint): WalcadeError {
  const position = formatLsn(at.position);
  return new WalcadeError(
    PREREQUISITE,
    `upstream ${address} goes on from ${position}, where this node is at ${formatLsn(own.served)}`,
    {
      detail: `WAL from there on is in no history of the upstream. It stays in pg_wal.`,
      hint: 'A standby that has replayed it cannot follow: run pg_rewind on it or make it anew.',
    },
  );
}

export function walIsRemoved(address: string, needed: Lsn, cause: WalcadeError): WalcadeError {
  return new WalcadeError(
    cause.sqlstate,
    `upstream ${address} does not have the WAL that this node needs next`,
    {
      detail: `It needs WAL from ${formatLsn(needed)} on. The upstream said: ${cause.message}.`,
      hint: 'Follow a server that still has this WAL, or make the node anew.',
      cause,
    },
  );
}

export function slotIsLeft(slot: string, address: string): WalcadeError {
  return new WalcadeError(
    PREREQUISITE,
    `replication slot "${slot}" is left on the former upstream ${address}`,
    {
      hint: 'Drop it there if this node is not to come back: it keeps WAL from being removed.',
    },
  );
}

export function doesNotStreamYet(reason: string | undefined): WalcadeError {
  const changed = '"primary_conninfo" has been changed.';
  return new WalcadeError(
    SQLSTATE.CONNECTION_FAILURE,
    'node does not stream from its new upstream yet',
    {
      detail: reason === undefined ? changed : `${changed} ${reason}.`,
      hint: 'The node goes on trying; "walcade status" shows how far it has come.',
    },
  );
}
