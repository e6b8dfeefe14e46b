/**
 * Whether an upstream has the WAL that a data directory needs before its server is consistent, on
 * the same branch of history. PostgreSQL finds that out when it starts (xlogrecovery.c,
 * InitWalRecovery()); here it is found out before anything is made.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ControlData } from '../postgres/control-data.ts';
import type { BackupLabel } from '../postgres/data-directory.ts';
import type { UpstreamIdentity } from '../receiver/upstream-identity.ts';
import { type TimelineHistory, timelineOf } from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn, lsn } from '../wal/lsn.ts';

/** A byte of WAL that a data directory needs, and the timeline that it was on there. */
export interface NeededWal {
  readonly position: Lsn;
  readonly timeline: TimelineId;
}

/**
 * The first byte of the record that recovery begins with (of a base backup its redo pointer), and
 * the last before the point at which a standby is consistent: a standby that has followed a
 * promotion may have them on two timelines.
 */
export function neededWal(data: ControlData, label: BackupLabel | undefined): NeededWal[] {
  const begin =
    label === undefined
      ? { position: data.checkpoint, timeline: data.timeline }
      : { position: label.start, timeline: label.timeline };
  const { minRecoveryPoint, minRecoveryTimeline } = data;
  if (minRecoveryPoint === 0n || minRecoveryTimeline === undefined) return [begin];
  return [begin, { position: lsn(minRecoveryPoint - 1n), timeline: minRecoveryTimeline }];
}

/** Throws 55000 if the upstream has not got so far, by position or by timeline. */
export function checkNotAhead(needed: readonly NeededWal[], upstream: UpstreamIdentity): void {
  for (const { position, timeline } of needed) {
    if (position >= upstream.walEnd) {
      throw new WalcadeError(
        SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
        `data directory needs WAL at ${formatLsn(position)}, ahead of the upstream at ` +
          formatLsn(upstream.walEnd),
        { hint: 'Name the server that it followed, or one that has received as much.' },
      );
    }
    if (timeline > upstream.timeline) {
      throw new WalcadeError(
        SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
        `data directory is on timeline ${timeline}, the upstream on timeline ${upstream.timeline}`,
        { hint: 'Name the server that was promoted, or one below it.' },
      );
    }
  }
}

/**
 * Throws 55000 if the upstream's history has other WAL there, as that of a standby has which was
 * promoted before its primary ended: then the two are different databases.
 */
export function checkInHistory(needed: readonly NeededWal[], history: TimelineHistory): void {
  for (const { position, timeline } of needed) {
    const owner = timelineOf(history, position);
    if (owner === timeline) continue;
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      "data directory is not in the upstream's history",
      {
        detail:
          `It needs WAL at ${formatLsn(position)} on timeline ${timeline}; there the history of ` +
          `timeline ${history.timeline} is on timeline ${owner}.`,
        hint: 'Run pg_rewind on it, or make a node with "walcade init --with-postgres".',
      },
    );
  }
}
