/** Where the store of a new node begins: always a segment's start. */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { type TimelineHistory, parseHistoryFile, rootHistory } from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

/**
 * As asked, or where the slot has `reserved` WAL, or now; a segment's start, and not before the
 * segment in which the upstream's timeline began. Throws 22023 for what was asked and cannot be.
 */
export async function chooseStart(
  client: ReplicationClient,
  { identity: { timeline, walEnd }, segmentBytes }: UpstreamFacts,
  { asked, reserved }: { asked: Lsn | undefined; reserved: Lsn | undefined },
): Promise<Lsn> {
  // Only what was asked for can be ahead: a slot may have been made later than `walEnd` was read.
  if (asked !== undefined && asked > walEnd) {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `requested starting point ${formatLsn(asked)} is ahead of the WAL flush position ` +
        `of the upstream ${formatLsn(walEnd)}`,
      { hint: 'Leave out --start-lsn to begin where the upstream is now.' },
    );
  }
  const start = segmentStart(asked ?? reserved ?? walEnd, segmentBytes);
  const began = await timelineBegin(client, timeline);
  if (began === undefined || start >= segmentStart(began, segmentBytes)) return start;
  if (asked === undefined) return segmentStart(began, segmentBytes);
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    `requested starting point ${formatLsn(asked)} is before the start of timeline ${timeline}`,
    { detail: `Timeline ${timeline} began at ${formatLsn(began)}.` },
  );
}

/**
 * The start for a data directory whose recovery begins at `redo`. Throws 55000 when that is before
 * the upstream's timeline began: a store begins on the timeline that it receives.
 */
export async function startForRedo(
  client: ReplicationClient,
  { identity: { timeline }, segmentBytes }: UpstreamFacts,
  redo: Lsn,
): Promise<Lsn> {
  const start = segmentStart(redo, segmentBytes);
  const began = await timelineBegin(client, timeline);
  if (began === undefined || start >= segmentStart(began, segmentBytes)) return start;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `recovery would begin at ${formatLsn(redo)}, before timeline ${timeline} of the upstream`,
    {
      detail: `Timeline ${timeline} began at ${formatLsn(began)}.`,
      hint: 'Run CHECKPOINT on the upstream, and take a base backup after that.',
    },
  );
}

/** The history of the upstream's `timeline`, as far as the upstream knows it. */
export async function readHistory(
  client: ReplicationClient,
  timeline: TimelineId,
): Promise<TimelineHistory> {
  if (timeline === 1) return rootHistory(timeline);
  const content = (await client.query(`TIMELINE_HISTORY ${timeline}`))[0]?.rows[0]?.[1];
  return content ? parseHistoryFile(timeline, content) : rootHistory(timeline);
}

/** Where the timeline began; undefined for the first, which has always been there. */
async function timelineBegin(
  client: ReplicationClient,
  timeline: TimelineId,
): Promise<Lsn | undefined> {
  return (await readHistory(client, timeline)).entries.at(-1)?.switchPoint;
}
