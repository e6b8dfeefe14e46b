/** How a stream of WAL ends in peace: what the upstream says after the last of it. */
import { type Lsn, type TimelineId, parseLsn, timelineId } from '../wal/lsn.ts';

/** How a stream ended, if not by an error. */
export type StreamEnd =
  | { kind: 'timeline-ended'; timeline: TimelineId; next: TimelineId; switchPoint: Lsn }
  | { kind: 'upstream-shut-down' };

/** The result set that ends `timeline`: the next one, and where it begins. */
export function parseTimelineEnd(
  timeline: TimelineId,
  results: readonly { rows: (Buffer | null)[][] }[],
): StreamEnd {
  const [next, switchPoint] = results[0]?.rows[0] ?? [];
  if (!next || !switchPoint) return { kind: 'upstream-shut-down' };
  return {
    kind: 'timeline-ended',
    timeline,
    next: timelineId(Number(next.toString())),
    switchPoint: parseLsn(switchPoint.toString()),
  };
}
