/**
 * Two promotions at one point can give one timeline number, and one history file, to two timelines.
 * What was written first on them is not the same: it has the time of the promotion in it.
 */
import { SQLSTATE, asWalcadeError } from '../base/errors.ts';
import { type ComparableWal, firstDifference } from '../receiver/wal-comparison.ts';
import { type PartingPoint, partingPoint } from '../wal/history-parting.ts';
import { type TimelineHistory, ancestorHistory, beginOf } from '../wal/history.ts';
import { INVALID_LSN, type Lsn, advance, alignDown, minLsn } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import type { DataWal } from './data-wal.ts';
import type { NewUpstream } from './rejoin-upstream.ts';

/**
 * Where WAL that ends at `end` parts from the upstream's: as the histories tell, or where the last
 * timeline that they have in common began, if the upstream's of that number is another one.
 * Undefined if they do not part. WAL that is gone, here or upstream, is taken for the same.
 */
export async function partingFrom(
  upstream: NewUpstream,
  own: { wal: DataWal; history: TimelineHistory; end: Lsn },
): Promise<PartingPoint | undefined> {
  const told = partingPoint(own.history, upstream.history);
  const timeline = told === undefined ? own.history.timeline : told.timeline;
  if (timeline === undefined) return told;
  const history = ancestorHistory(own.history, timeline);
  const start = beginOf(history);
  const known = minLsn(minLsn(own.end, upstream.facts.identity.walEnd), told?.position ?? own.end);
  const end = minLsn(known, advance(alignDown(start, PAGE_BYTES), PAGE_BYTES));
  if (start === INVALID_LSN || start >= end) return told;
  const bytes = await own.wal.read(start, end);
  if (bytes === undefined) return told;
  const stored = { history: own.history, read: () => ({ bytes, release: () => {} }) };
  const isSame = await isUpstreams(upstream, stored, { timeline, start, end });
  return isSame ? told : { timeline: history.entries.at(-1)?.timeline, position: start };
}

async function isUpstreams(
  { connect }: NewUpstream,
  stored: ComparableWal,
  range: Parameters<typeof firstDifference>[2],
): Promise<boolean> {
  const client = await connect();
  try {
    // PostgreSQL 13 starts no stream before it was asked to identify itself.
    await client.query('IDENTIFY_SYSTEM');
    return (await firstDifference(client, stored, range)) === undefined;
  } catch (error) {
    if (asWalcadeError(error).sqlstate === SQLSTATE.UNDEFINED_FILE) return true;
    throw error;
  } finally {
    client.connection.close();
  }
}
