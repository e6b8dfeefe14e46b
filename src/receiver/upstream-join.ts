/**
 * What it would mean for a node to go on with another upstream: a function of the two histories and
 * how far each side has come. Nothing is asked and nothing is changed here.
 */
import { type PartingPoint, contestedTimeline, partingPoint } from '../wal/history-parting.ts';
import type { TimelineHistory } from '../wal/history.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';

/** What a node has: WAL from `oldest` on, of which downstreams have been given all to `served`. */
export interface OwnWal {
  history: TimelineHistory;
  oldest: Lsn;
  served: Lsn;
}

/** What an upstream has. */
export interface UpstreamWal {
  history: TimelineHistory;
  walEnd: Lsn;
}

/**
 *   continues   it has all that the node has served, and goes on from there
 *   behind      it does not have all of it yet
 *   forked      it goes on from before that: what the node has after it is another branch
 *   too-far     so too, but the node does not keep WAL from there any more
 *   contested   the two have given one timeline number to different timelines
 */
export type Join =
  | { kind: 'continues' }
  | { kind: 'behind' }
  | { kind: 'forked'; at: PartingPoint }
  | { kind: 'too-far'; at: PartingPoint }
  | { kind: 'contested'; timeline: TimelineId; at: PartingPoint };

export function joinOf(own: OwnWal, upstream: UpstreamWal): Join {
  const at = partingPoint(own.history, upstream.history);
  if (at === undefined) return { kind: upstream.walEnd < own.served ? 'behind' : 'continues' };
  const timeline = contestedTimeline(own.history, upstream.history);
  if (timeline !== undefined) return { kind: 'contested', timeline, at };
  if (upstream.history.timeline < own.history.timeline) return { kind: 'behind' };
  if (at.position >= own.served) return { kind: 'continues' };
  return { kind: at.position < own.oldest ? 'too-far' : 'forked', at };
}
