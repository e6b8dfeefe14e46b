/**
 * Whether there is anything left to ask for on the timeline that a node follows: a pure decision.
 */
import { type TimelineHistory, isInHistory, switchPointOf } from '../wal/history.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';

/** Where a timeline was left, and for which one. */
export interface TimelineEnd {
  next: TimelineId;
  switchPoint: Lsn;
}

/**
 * The end of the node's timeline in the upstream's `history`, if the node has all of it already and
 * only a part of a record lies beyond: a record that nobody finished, as its primary died. That is
 * no fork, but the upstream would refuse to stream from there. Else undefined: it is asked.
 */
export function timelineEndBehind(
  history: TimelineHistory,
  { timeline, received, proven }: { timeline: TimelineId; received: Lsn; proven: Lsn },
): TimelineEnd | undefined {
  if (!isInHistory(history, timeline)) return undefined;
  const end = switchPointOf(history, timeline);
  if (end === undefined || received <= end.switchPoint || proven > end.switchPoint) {
    return undefined;
  }
  return end;
}
