/**
 * How a node goes on with an upstream whose history is known: with its own timeline, or from where
 * the two histories part. Pure decisions.
 *
 * A node holds no data pages, so it may go on with a timeline that forked off before the end of
 * what it has: both branches are kept (xlogrecovery.c, rescanLatestTimeLine(), must refuse that).
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Branch } from '../store/branching.ts';
import {
  type TimelineHistory,
  ancestorHistory,
  historyFileName,
  isInHistory,
  switchPointOf,
} from '../wal/history.ts';
import {
  type PartingPoint,
  contestedTimeline,
  describePartingPoint,
  partingPoint,
} from '../wal/history-parting.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';

/** A node's position: what it has received, and of which history. */
export interface OwnPosition {
  history: TimelineHistory;
  received: Lsn;
  proven: Lsn;
}

export type TimelineStep =
  | { kind: 'stream' }
  /** `isFork`: proven WAL lies behind the branch, which is no part of the upstream's history. */
  | { kind: 'branch'; branch: Branch; isFork: boolean };

/**
 * The next step towards the end of the upstream's history. What a node has of its own timeline
 * beyond that timeline's end, as a part of a record that nobody finished, is no fork. Throws 55000
 * if the two histories have no timeline in common, or two timelines of one number, whose segments
 * have the same names.
 */
export function nextStep(upstream: TimelineHistory, own: OwnPosition): TimelineStep {
  const { timeline } = own.history;
  const contested = contestedTimeline(upstream, own.history);
  if (contested !== undefined) throw isAnother(contested, partingPoint(upstream, own.history));
  if (!isInHistory(upstream, timeline)) return { ...stepBack(upstream, own), isFork: true };
  const end = switchPointOf(upstream, timeline);
  if (end === undefined || own.received < end.switchPoint) return { kind: 'stream' };
  const history = ancestorHistory(upstream, end.next);
  const branch = { history, at: end.switchPoint };
  return { kind: 'branch', branch, isFork: own.proven > end.switchPoint };
}

/** The last position that both histories have in common, and what follows it upstream. */
function stepBack(
  upstream: TimelineHistory,
  { history: own }: OwnPosition,
): { kind: 'branch'; branch: Branch } {
  const common = lastCommon(upstream, own);
  if (common === undefined) throw nothingInCommon(upstream, own);
  const ownEnd = switchPointOf(own, common)?.switchPoint;
  const upstreamEnd = switchPointOf(upstream, common);
  if (ownEnd === undefined) throw nothingInCommon(upstream, own);
  const goesOn = upstreamEnd === undefined || ownEnd < upstreamEnd.switchPoint;
  const next = goesOn ? common : upstreamEnd.next;
  const at = goesOn ? ownEnd : upstreamEnd.switchPoint;
  return { kind: 'branch', branch: { history: ancestorHistory(upstream, next), at } };
}

/** The newest timeline of both histories that has the same ancestors, left at the same points. */
function lastCommon(a: TimelineHistory, b: TimelineHistory): TimelineId | undefined {
  let common: TimelineId | undefined;
  for (const [index, timeline] of timelinesOf(a).entries()) {
    if (timelinesOf(b)[index] !== timeline) break;
    const [before, other] = [a.entries[index - 1], b.entries[index - 1]];
    if (before?.switchPoint !== other?.switchPoint) break;
    common = timeline;
  }
  return common;
}

function timelinesOf({ entries, timeline }: TimelineHistory): TimelineId[] {
  return [...entries.map((entry) => entry.timeline), timeline];
}

function isAnother(timeline: TimelineId, at: PartingPoint | undefined): WalcadeError {
  const where = at === undefined ? '' : ` ${describePartingPoint(at)}`;
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `timeline ${timeline} of the upstream is another one than this node's`,
    {
      detail: `The two histories part${where}.`,
      hint: 'Point primary_conninfo at a server whose history this node shares.',
    },
  );
}

function nothingInCommon(upstream: TimelineHistory, own: TimelineHistory): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `timeline ${own.timeline} of this node is not in the history of the upstream's ` +
      `timeline ${upstream.timeline}`,
    {
      detail: `The history is in "${historyFileName(upstream.timeline)}".`,
      hint: 'Point primary_conninfo at a server whose history this node shares.',
    },
  );
}
