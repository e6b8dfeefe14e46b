/**
 * Downstreams that have replayed WAL past a fork: they hold data that is in no history of this
 * node, and no WAL can lead them on. Each asks again and again, so it is told once, and remembered
 * for as long as it comes back. It lives as long as the node.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type Lsn, type TimelineId, formatLsn } from '../wal/lsn.ts';
import type { PeerAddress } from '../protocol/network.ts';

export interface DivergedDownstream {
  readonly applicationName: string;
  readonly user: string;
  readonly peer: PeerAddress;
  readonly isAttached: boolean;
  /** What it has replayed, or asked for, and of which timeline. */
  readonly position: Lsn;
  readonly timeline: TimelineId;
  /** Where this node's history left that timeline, or the ancestor of it that both have. */
  readonly switchPoint: Lsn;
  readonly leftTimeline: TimelineId;
}

/** A standby asks again each wal_retrieve_retry_interval, of 5 s if nobody changed it. */
const REMEMBERED_MS = 60_000;
const ENTRIES_MAX = 1000;

export class DivergedDownstreams {
  readonly #entries = new Map<string, { downstream: DivergedDownstream; seenMs: number }>();

  /**
   * Notes one at a monotonic time; true if it is new, or has left this history elsewhere. Who only
   * asks at another position, as a client does that looks for one, is none of both.
   */
  note(downstream: DivergedDownstream, nowMs: number): boolean {
    const key = keyOf(downstream);
    this.#forgetOld(nowMs);
    const known = this.#entries.get(key)?.downstream;
    this.#entries.delete(key);
    if (this.#entries.size >= ENTRIES_MAX) return false;
    this.#entries.set(key, { downstream, seenMs: nowMs });
    const { timeline, switchPoint } = downstream;
    return known?.timeline !== timeline || known.switchPoint !== switchPoint;
  }

  /** Those that were here within the last minute. */
  all(nowMs: number): DivergedDownstream[] {
    this.#forgetOld(nowMs);
    return [...this.#entries.values()].map(({ downstream }) => downstream);
  }

  #forgetOld(nowMs: number): void {
    for (const [key, { seenMs }] of this.#entries) {
      if (seenMs < nowMs - REMEMBERED_MS) this.#entries.delete(key);
    }
  }
}

/** Its port is another one with each connection. */
function keyOf({ applicationName, user, peer }: DivergedDownstream): string {
  return JSON.stringify([applicationName, user, peer.transport === 'tcp' ? peer.address : '']);
}

/** What the log says of one. */
export function divergenceOf(downstream: DivergedDownstream): WalcadeError {
  const { applicationName, position, timeline, switchPoint, leftTimeline } = downstream;
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `standby "${applicationName}" has WAL that is not in this server's history`,
    {
      detail:
        `It is at ${formatLsn(position)} on timeline ${timeline}. This server's history forked ` +
        `from timeline ${leftTimeline} at ${formatLsn(switchPoint)}.`,
      hint: 'Run pg_rewind on it, or make it anew from a base backup.',
    },
  );
}
