/**
 * Whether a base backup that passes through fits the WAL that this node serves: a tool streams the
 * backup's WAL from here, and so will a standby that is made of it. The backup may come from a
 * server that this node has still to follow to its timeline, or that it will never follow.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { decodeDataRow } from '../protocol/backend-messages.ts';
import type { Message } from '../protocol/message-reader.ts';
import { BACKEND } from '../protocol/message-type.ts';
import { isInHistory, switchPointOf } from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn, parseLsn, timelineId } from '../wal/lsn.ts';
import type { SenderContext } from './sender-context.ts';

/** Where a backup begins or ends. */
export interface BackupPosition {
  which: 'begins' | 'ends';
  lsn: Lsn;
  timeline: TimelineId;
}

/** How long a node that is to follow to a backup's timeline may receive nothing. */
const STALLED_MS = 30_000;

/** Finds the two positions among the messages of one backup. */
export class BackupPositions {
  #next: BackupPosition['which'] | undefined = 'begins';

  /** The position that `message` tells, if it tells one. */
  take({ type, body }: Message): BackupPosition | undefined {
    if (type === BACKEND.COPY_OUT_RESPONSE) this.#next = 'ends';
    if (type !== BACKEND.DATA_ROW || this.#next === undefined) return undefined;
    const which = this.#next;
    this.#next = undefined;
    const [position, timeline] = decodeDataRow(body).map((value) => value?.toString() ?? '');
    if (position === undefined || timeline === undefined || !/^[1-9]\d{0,9}$/.test(timeline)) {
      throw new WalcadeError(
        SQLSTATE.PROTOCOL_VIOLATION,
        'invalid response from upstream to BASE_BACKUP',
        { detail: `Got position "${position}", timeline "${timeline}".` },
      );
    }
    return { which, lsn: parseLsn(position), timeline: timelineId(Number(timeline)) };
  }
}

/**
 * Waits until this node has followed to the timeline on which a backup begins, as long as it
 * receives WAL: who takes the backup asks here for WAL of that timeline as soon as it knows it.
 * Throws 55000 if the node does not get there, or goes on elsewhere.
 */
export async function untilBackupFits(
  { store, clock }: Pick<SenderContext, 'store' | 'clock'>,
  begin: BackupPosition,
  signal: AbortSignal,
): Promise<void> {
  const { timeline, lsn } = begin;
  while (!isInHistory(store.history, timeline) && store.timeline < timeline) {
    const before = { timeline: store.timeline, received: store.received };
    await store.branched.waitAtMost(STALLED_MS, clock, signal);
    if (store.timeline !== before.timeline || store.received !== before.received) continue;
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      `base backup is of timeline ${timeline}, to which this node does not follow`,
      {
        detail:
          `The backup begins at ${formatLsn(lsn)}. This node is on timeline ${store.timeline} at ` +
          `${formatLsn(store.received)} and has received nothing for ${STALLED_MS / 1000} s.`,
        hint:
          'See with "walcade status" why it does not follow its upstream, and take the backup ' +
          'again when it does.',
      },
    );
  }
  checkBackupFits(store, begin);
}

/** Throws 55000 if the position is of a branch that this node's history does not go through. */
export function checkBackupFits(
  { history }: Pick<SenderContext['store'], 'history'>,
  { which, lsn, timeline }: BackupPosition,
): void {
  // A backup may end on a timeline to which this node has still to follow.
  if (!isInHistory(history, timeline) && history.timeline < timeline) return;
  const isKnown = isInHistory(history, timeline);
  const left = isKnown ? switchPointOf(history, timeline) : undefined;
  if (isKnown && (left === undefined || lsn <= left.switchPoint)) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `base backup ${which} at ${formatLsn(lsn)} on timeline ${timeline}, ` +
      "which is not in this node's history",
    {
      detail:
        left === undefined
          ? `This node is on timeline ${history.timeline}, of which it is no ancestor.`
          : `This node's history forked from it at ${formatLsn(left.switchPoint)}.`,
      hint:
        'Take the backup again. If it is from the same server then, point primary_conninfo at ' +
        'servers of one history only.',
    },
  );
}
