/**
 * What is to become of a data directory that is to follow an upstream: where the two histories
 * part, whether it has gone on past that point, and what is lost if it is taken back. Pure
 * decisions, and the words for them.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { formatBytes } from '../base/format-bytes.ts';
import type { Commits } from '../wal/commit-counter.ts';
import type { PartingPoint } from '../wal/history-parting.ts';
import type { TimelineHistory } from '../wal/history.ts';
import { type Lsn, type TimelineId, distance, formatLsn } from '../wal/lsn.ts';

/** A data directory whose server does not run. */
export interface OwnData {
  readonly history: TimelineHistory;
  /** Up to where its files may hold what WAL says; undefined if that cannot be told. */
  readonly end: Lsn | undefined;
  /** It would start as a primary. */
  readonly isPrimary: boolean;
}

export interface UpstreamWal {
  readonly history: TimelineHistory;
  readonly walEnd: Lsn;
}

/** Its server can follow as it is, or its files are to be taken back to the fork. */
export type Course =
  | { readonly kind: 'follow' }
  | { readonly kind: 'take back'; readonly loss: LostWal };

/** WAL after the fork. */
export interface LostWal {
  readonly timeline: TimelineId;
  readonly from: Lsn;
  /** Undefined if that cannot be told. */
  readonly to: Lsn | undefined;
}

/**
 * What is to be done so that `own` can follow `upstream`, from which it parts at `fork`, if at all.
 * Throws 55000 for an upstream that is not ahead: on an older timeline, or on the same one.
 */
export function chooseCourse(
  own: OwnData,
  upstream: UpstreamWal,
  fork: PartingPoint | undefined,
): Course {
  const { timeline } = own.history;
  const theirs = upstream.history.timeline;
  if (theirs < timeline) {
    throw notAhead(
      `upstream is on timeline ${theirs}, behind timeline ${timeline} of this node`,
      'Name the server that was promoted last, or one below it.',
    );
  }
  if (fork === undefined) {
    checkSameTimeline(own, upstream);
    return { kind: 'follow' };
  }
  if (own.end !== undefined && own.end <= fork.position) return { kind: 'follow' };
  return { kind: 'take back', loss: { timeline, from: fork.position, to: own.end } };
}

/** Nobody was promoted after this node: a primary has nobody to follow then, a standby may. */
function checkSameTimeline({ isPrimary, end, history }: OwnData, upstream: UpstreamWal): void {
  if (isPrimary) {
    throw notAhead(
      `upstream is on timeline ${history.timeline}, like this node`,
      'Name a server that was promoted after this node was the primary, or one below it.',
      'No server was promoted after this one.',
    );
  }
  if (end === undefined || end <= upstream.walEnd) return;
  throw notAhead(
    `this node has replayed WAL up to ${formatLsn(end)}, ahead of the upstream at ` +
      formatLsn(upstream.walEnd),
    'Name a server that has received as much.',
  );
}

function notAhead(message: string, hint: string, detail?: string): WalcadeError {
  return new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, message, { detail, hint });
}

/** What is lost, with its transactions if these could be counted: parts of a sentence. */
export function describeLoss(
  { timeline, from, to }: LostWal,
  commits: Commits | undefined,
): { wal: string; transactions: string } {
  const past = `on timeline ${timeline} after ${formatLsn(from)}`;
  const wal =
    to === undefined
      ? `all WAL ${past}`
      : `${formatBytes(distance(from, to))} of WAL ${past}, up to ${formatLsn(to)}`;
  return { wal, transactions: describeCommits(commits) };
}

function describeCommits(commits: Commits | undefined): string {
  if (commits === undefined) return 'cannot be counted, as that WAL is not here any more';
  const { count, firstUs, lastUs } = commits;
  if (count === 0) return 'none';
  if (firstUs === undefined || lastUs === undefined) return String(count);
  const [first, last] = [formatTime(firstUs), formatTime(lastUs)];
  if (first === last) return `${count}, committed at ${first}`;
  return `${count}, committed from ${first} to ${last}`;
}

const POSTGRES_EPOCH_MS = 946_684_800_000;

/** A TimestampTz, which a file may hold any bytes for. */
function formatTime(timestampUs: bigint): string {
  const time = new Date(Number(timestampUs / 1000n) + POSTGRES_EPOCH_MS);
  if (Number.isNaN(time.getTime())) return 'a time that is no time';
  return time
    .toISOString()
    .replace('T', ' ')
    .replace(/\.\d+Z$/, ' UTC');
}
