/**
 * What becomes of a node's stored WAL when it is to follow a server of another branch: it is kept
 * where it leads up to what the new server streams, and the receiver goes on from the fork; else it
 * begins anew, where the data directory needs it, as that of a new node.
 */
import { join } from 'node:path';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { accessing } from '../base/file-access-error.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { ControlFile } from '../store/control-file.ts';
import { HistoryFiles } from '../store/history-files.ts';
import { oldestStored } from '../store/segment-catalog.ts';
import { partingPoint } from '../wal/history-parting.ts';
import { type TimelineHistory, parseHistoryFileName } from '../wal/history.ts';
import { type Lsn, type TimelineId, minLsn } from '../wal/lsn.ts';
import { isSegmentName } from '../wal/segment.ts';
import { DataWal } from './data-wal.ts';
import { partingFrom } from './rejoin-twins.ts';
import type { NewUpstream } from './rejoin-upstream.ts';
import { askForWal } from './served-wal.ts';
import type { StoppedNode } from './stopped-node.ts';
import { type StoreStart, startForRedo } from './store-start.ts';

export type StoreCourse =
  | { readonly kind: 'is kept' }
  | ({ readonly kind: 'begins anew' } & StoreStart);

/**
 * What becomes of the store of `node`, whose server needs WAL from `redo` on; undefined if neither
 * it nor the upstream has that.
 */
export async function chooseStore(
  disk: Disk,
  node: StoppedNode,
  upstream: NewUpstream,
  redo: Lsn,
): Promise<StoreCourse | undefined> {
  if (await isOfUse(disk, node, upstream, redo)) return { kind: 'is kept' };
  const { client, facts } = upstream;
  const store = await startForRedo(client, facts, redo);
  return (await isServed(upstream, store)) ? { kind: 'begins anew', ...store } : undefined;
}

/** Whether what `node` has stored leads from `redo` up to what the upstream streams. */
async function isOfUse(
  disk: Disk,
  { walDirectory, control }: StoppedNode,
  upstream: NewUpstream,
  redo: Lsn,
): Promise<boolean> {
  const { segmentBytes, systemIdentifier, flushed, walk } = control;
  const names = await accessing('read directory', walDirectory, () => disk.list(walDirectory));
  const histories = new HistoryFiles(disk, walDirectory);
  if (await hasOtherHistories(names, histories, upstream)) return false;
  const history = await histories.history(control.timeline);
  const oldest = oldestWhole(names, { history, received: flushed, segmentBytes });
  const wal = new DataWal({ folders: [walDirectory], history, segmentBytes, systemIdentifier });
  const fork = await partingFrom(upstream, { wal, history, end: flushed });
  if (fork?.position !== partingPoint(history, upstream.history)?.position) return false;
  const joint = minLsn(minLsn(fork?.position ?? flushed, flushed), upstream.facts.identity.walEnd);
  if (oldest === undefined || minLsn(minLsn(redo, walk.from), joint) < oldest) return false;
  return isServed(upstream, await startForRedo(upstream.client, upstream.facts, joint));
}

/** Whether the upstream has WAL from there on. */
async function isServed({ connect }: NewUpstream, store: StoreStart): Promise<boolean> {
  try {
    await askForWal(connect, store);
    return true;
  } catch (error) {
    if (asWalcadeError(error).sqlstate === SQLSTATE.UNDEFINED_FILE) return false;
    throw error;
  }
}

/**
 * Empties the store, and has it begin at `start`. The newest goes first: what a crash leaves ends
 * before what the control file says, and is no store.
 */
export async function beginAnew(
  disk: Disk,
  { directory, walDirectory }: Pick<StoppedNode, 'directory' | 'walDirectory'>,
  { start, timeline }: StoreStart,
): Promise<void> {
  await accessing('empty directory', walDirectory, async () => {
    const names = await disk.list(walDirectory);
    const position = (name: string): string => name.slice(8);
    const segments = names.filter(isSegmentName);
    segments.sort((a, b) => (position(a) > position(b) ? -1 : 1));
    const histories = names.filter((name) => parseHistoryFileName(name) !== undefined);
    for (const name of [...segments, ...histories]) await disk.remove(join(walDirectory, name));
    await disk.syncDirectory(walDirectory);
  });
  const control = await ControlFile.open(disk, directory);
  try {
    await control.update({
      timeline,
      walk: { from: start, startsAt: 'segment' },
      flushed: start,
      checkpointRedo: undefined,
      cleanShutdown: true,
    });
  } finally {
    await control.close();
  }
}

/** Of a number that was given to two timelines, or that the upstream has not got to. */
async function hasOtherHistories(
  names: readonly string[],
  histories: HistoryFiles,
  { client, facts }: NewUpstream,
): Promise<boolean> {
  for (const name of names) {
    const timeline = parseHistoryFileName(name);
    if (timeline === undefined) continue;
    if (timeline > facts.identity.timeline) return true;
    const [ours, theirs] = [await histories.read(timeline), await askForHistory(client, timeline)];
    if (theirs !== undefined && ours?.equals(theirs) === false) return true;
  }
  return false;
}

async function askForHistory(
  client: ReplicationClient,
  timeline: TimelineId,
): Promise<Buffer | undefined> {
  try {
    return (await client.query(`TIMELINE_HISTORY ${timeline}`))[0]?.rows[0]?.[1] ?? undefined;
  } catch (error) {
    if (asWalcadeError(error).sqlstate === SQLSTATE.UNDEFINED_FILE) return undefined;
    throw error;
  }
}

/** Undefined if there is a gap. */
function oldestWhole(
  names: readonly string[],
  stored: { history: TimelineHistory; received: Lsn; segmentBytes: number },
): Lsn | undefined {
  try {
    return oldestStored(names, stored);
  } catch (error) {
    if (error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE) {
      return undefined;
    }
    throw error;
  }
}
