/**
 * Where the store of a new node begins: always a segment's start, on the timeline in whose name the
 * upstream keeps that segment. It may be an ancestor of the upstream's own: the receiver goes from
 * one to the next.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import {
  type TimelineHistory,
  fileTimelineOf,
  parseHistoryFile,
  rootHistory,
} from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

export interface StoreStart {
  readonly start: Lsn;
  readonly timeline: TimelineId;
}

/**
 * As asked, or where the slot has `reserved` WAL, or now. Throws 22023 for what was asked and is
 * ahead of the upstream.
 */
export async function chooseStart(
  client: ReplicationClient,
  upstream: UpstreamFacts,
  { asked, reserved }: { asked: Lsn | undefined; reserved: Lsn | undefined },
): Promise<StoreStart> {
  const { walEnd } = upstream.identity;
  // Only what was asked for can be ahead: a slot may have been made later than `walEnd` was read.
  if (asked !== undefined && asked > walEnd) {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `requested starting point ${formatLsn(asked)} is ahead of the WAL flush position ` +
        `of the upstream ${formatLsn(walEnd)}`,
      { hint: 'Leave out --start-lsn to begin where the upstream is now.' },
    );
  }
  return startForRedo(client, upstream, asked ?? reserved ?? walEnd);
}

/** The start for a server whose recovery begins at `redo`. */
export async function startForRedo(
  client: ReplicationClient,
  { identity, segmentBytes }: Pick<UpstreamFacts, 'identity' | 'segmentBytes'>,
  redo: Lsn,
): Promise<StoreStart> {
  const history = await readHistory(client, identity.timeline);
  const start = segmentStart(redo, segmentBytes);
  return { start, timeline: fileTimelineOf(history, start, segmentBytes) };
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
