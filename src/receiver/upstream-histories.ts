/**
 * The upstream's timeline history files: mirrored here, and compared where this node depends on
 * them. The number of a timeline does not identify a history: two servers may take the same one.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import { type TimelineId, timelineId } from '../wal/lsn.ts';

/** The timeline of this node's store, and the highest one of the upstream. */
export interface Timelines {
  own: TimelineId;
  upstream: TimelineId;
}

/**
 * Mirrors every history file up to the upstream's timeline that is not here yet, and fetches those
 * of the store's own and of the upstream's timeline anew: throws 58P02 if one is another. What a
 * server has not (58P01) is passed over up to the store's timeline: a base backup brings only the
 * newest.
 */
export async function fetchHistories(
  client: ReplicationClient,
  histories: HistoryFiles,
  { own, upstream }: Timelines,
): Promise<void> {
  for (let number = 2; number <= upstream; number++) {
    const wanted = timelineId(number);
    const isCompared = wanted === own || wanted === upstream;
    if (!isCompared && (await histories.read(wanted)) !== undefined) continue;
    const content = await readUpstreamHistory(client, wanted, {
      mayBeMissing: wanted < own || (wanted === own && own < upstream),
    });
    if (content !== undefined) await histories.keep(wanted, content);
  }
}

/**
 * The upstream's history file of a timeline; undefined, if that may be, when it has none. Throws
 * what it answers.
 */
export async function readUpstreamHistory(
  client: ReplicationClient,
  timeline: TimelineId,
  { mayBeMissing }: { mayBeMissing: boolean },
): Promise<Buffer | undefined> {
  try {
    const results = await client.query(`TIMELINE_HISTORY ${timeline}`);
    return results[0]?.rows[0]?.[1] ?? undefined;
  } catch (error) {
    const isMissing = error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE;
    if (isMissing && mayBeMissing) return undefined;
    throw error;
  }
}
