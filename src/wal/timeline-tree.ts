/**
 * The timelines of a cluster as a tree: which forked from which, where and why, seen from the one
 * that is current.
 *
 * Each history file tells of all ancestors of its timeline, so several tell of one fork. Of the
 * current timeline's ancestors its own file is believed, as readers of WAL do; of any other
 * timeline its own file, before those of its descendants. Where files differ, that is said.
 * A timeline's number is higher than its parent's, so no file can make a circle.
 */
import { parseHistoryFile } from './history.ts';
import { type Lsn, type TimelineId, minLsn } from './lsn.ts';

/** Where a timeline left its parent. */
export interface Fork {
  readonly parent: TimelineId;
  readonly at: Lsn;
  /** PostgreSQL's words for why recovery ended there, as they stand in the history file. */
  readonly reason: string;
}

/** What one history file tells: the forks of its ancestors and of its timeline, oldest first. */
export interface ToldHistory {
  readonly timeline: TimelineId;
  readonly forks: readonly (Fork & { readonly timeline: TimelineId })[];
}

export interface TimelineInTree {
  readonly timeline: TimelineId;
  /** Undefined where it is not known; timeline 1 has none. */
  readonly fork: Fork | undefined;
  /** A branch is neither the current timeline nor an ancestor of it. */
  readonly role: 'current' | 'ancestor' | 'branch';
  /** Of an ancestor: its WAL past this is no part of the current history. */
  readonly leftAt: Lsn | undefined;
}

/** Files that tell different forks of one timeline. */
export interface Contradiction {
  readonly timeline: TimelineId;
  /** Each fork that is told, and the timelines whose files tell it; first the one believed. */
  readonly tales: readonly { readonly fork: Fork; readonly files: readonly TimelineId[] }[];
}

/** What the history file of `timeline` tells; throws as parseHistoryFile() does. */
export function readToldHistory(timeline: TimelineId, content: Uint8Array): ToldHistory {
  const { entries } = parseHistoryFile(timeline, content);
  const reasons = Buffer.from(content)
    .toString('utf8')
    .split(/\r?\n/)
    .filter((line) => !/^\s*(#|$)/.test(line))
    .map((line) => line.replace(/^\s*\d+\s*(?:0x)?[0-9A-F]+\/\s*(?:0x)?[0-9A-F]+/i, '').trim());
  const forks = entries.map(({ timeline: parent, switchPoint: at }, index) => ({
    timeline: entries[index + 1]?.timeline ?? timeline,
    parent,
    at,
    reason: reasons[index] ?? '',
  }));
  return { timeline, forks };
}

/**
 * All timelines that `histories` tell of and those of `others` (of which there may be WAL), by
 * number; and what the histories contradict each other in.
 */
export function buildTimelineTree(
  histories: readonly ToldHistory[],
  { current, others }: { current: TimelineId; others: readonly TimelineId[] },
): { timelines: TimelineInTree[]; contradictions: Contradiction[] } {
  const tales = gatherTales(histories, current);
  const ancestors = ancestorsOf(tales, current);
  const numbers = new Set([current, ...others, ...histories.map(({ timeline }) => timeline)]);
  for (const [timeline, told] of tales) {
    numbers.add(timeline);
    for (const { fork } of told) numbers.add(fork.parent);
  }
  const timelines = [...numbers]
    .sort((a, b) => a - b)
    .map((timeline): TimelineInTree => {
      const fork = tales.get(timeline)?.[0]?.fork;
      const leftAt = ancestors.get(timeline);
      if (leftAt !== undefined) return { timeline, fork, role: 'ancestor', leftAt };
      const role = timeline === current ? 'current' : 'branch';
      return { timeline, fork, role, leftAt: undefined };
    });
  const contradictions = [...tales]
    .filter(([, told]) => told.length > 1)
    .map(([timeline, told]) => ({ timeline, tales: told }))
    .sort((a, b) => a.timeline - b.timeline);
  return { timelines, contradictions };
}

interface Tale {
  fork: Fork;
  files: TimelineId[];
}

/** What is told of each timeline's fork; first what is believed. */
function gatherTales(
  histories: readonly ToldHistory[],
  current: TimelineId,
): Map<TimelineId, Tale[]> {
  const gathered = new Map<TimelineId, Tale[]>();
  const note = (
    file: TimelineId,
    { timeline, parent, at, reason }: ToldHistory['forks'][number],
  ) => {
    const tales = gathered.get(timeline) ?? [];
    gathered.set(timeline, tales);
    const same = tales.find(({ fork }) => fork.parent === parent && fork.at === at);
    if (same === undefined) tales.push({ fork: { parent, at, reason }, files: [file] });
    else same.files.push(file);
  };
  const byTrust = histories.toSorted((a, b) => {
    if (a.timeline === current || b.timeline === current) return a.timeline === current ? -1 : 1;
    // A timeline's own file comes before its descendants', which have higher numbers.
    return a.timeline - b.timeline;
  });
  for (const { timeline: file, forks } of byTrust) for (const fork of forks) note(file, fork);
  return gathered;
}

/** The ancestors of `timeline`, each with the position past which its WAL is not in its history. */
function ancestorsOf(
  tales: ReadonlyMap<TimelineId, readonly Tale[]>,
  timeline: TimelineId,
): Map<TimelineId, Lsn> {
  const ancestors = new Map<TimelineId, Lsn>();
  let leftAt: Lsn | undefined;
  let fork = tales.get(timeline)?.[0]?.fork;
  while (fork !== undefined) {
    // A recovery target below an ancestor's switch point leaves that ancestor there as well.
    leftAt = minLsn(fork.at, leftAt ?? fork.at);
    ancestors.set(fork.parent, leftAt);
    fork = tales.get(fork.parent)?.[0]?.fork;
  }
  return ancestors;
}
