/**
 * How a node's data directory is to become one of its new upstream's history, and what that costs:
 * found out, and put into words, before anything is changed.
 */
import type { Disk } from '../base/disk.ts';
import { partingPoint } from '../wal/history-parting.ts';
import { formatLsn } from '../wal/lsn.ts';
import { StoppedData } from './rejoin-data.ts';
import { type RejoinStep, hasUsableData } from './rejoin-marker.ts';
import { type LostWal, chooseCourse, describeLoss } from './rejoin-plan.ts';
import { type RewindParts, whyNotRewind } from './rejoin-rewind.ts';
import { type StoreCourse, chooseStore } from './rejoin-store.ts';
import { partingFrom } from './rejoin-twins.ts';

export type Proposal =
  /** It can follow as it is, with the node's store or a new one. */
  | { readonly method: 'as it is'; readonly store: StoreCourse }
  | ({
      readonly method: 'pg_rewind';
      readonly data: StoppedData;
      readonly lost: LostWal;
    } & Replacing)
  | ({
      readonly method: 'base backup';
      /** Why not by pg_rewind: a sentence, if there is anything to say. */
      readonly noRewind?: string;
    } & Replacing);

interface Replacing {
  /** Why not as it is: a sentence. */
  readonly reason: string;
  /** What the files have, and will not have any more; undefined if nothing. */
  readonly loss: { readonly wal: string; readonly transactions: string } | undefined;
}

const TWIN = 'The two have given one number to two timelines, which it would take for the same.';

/** Throws 55000 if there is nothing that this upstream could be followed for. */
export async function proposeRejoin(
  disk: Disk,
  { step, ...parts }: Omit<RewindParts, 'data'> & { step: RejoinStep | undefined },
): Promise<Proposal> {
  const { node, upstream } = parts;
  if (!hasUsableData(step)) {
    const reason = 'An earlier pg_rewind was broken off, after which no server can start.';
    return { method: 'base backup', reason, loss: undefined };
  }
  const { history, facts } = upstream;
  const data = await StoppedData.read(node, history);
  const { own, wal } = data;
  const told = partingPoint(own.history, history);
  const fork =
    own.end === undefined ? told : await partingFrom(upstream, { wal, ...own, end: own.end });
  const course = chooseCourse(own, { history, walEnd: facts.identity.walEnd }, fork);
  if (course.kind === 'take back') {
    const { loss: lost } = course;
    const { from, to } = lost;
    const commits = to === undefined ? undefined : await wal.commits(from, to);
    const reason = `The two have parted at ${formatLsn(from)}.`;
    const replacing = { reason, loss: describeLoss(lost, commits) };
    const isTwin = fork?.position !== told?.position;
    const noRewind = isTwin ? TWIN : await whyNotRewind({ ...parts, data });
    if (noRewind !== undefined) return { method: 'base backup', noRewind, ...replacing };
    return { method: 'pg_rewind', data, lost, ...replacing };
  }
  const store = await chooseStore(disk, node, upstream, data.redo);
  if (store !== undefined) return { method: 'as it is', store };
  const from = formatLsn(data.redo);
  const reason = `The data need WAL from ${from} on, which neither the node nor the upstream has.`;
  return { method: 'base backup', reason, loss: undefined };
}
