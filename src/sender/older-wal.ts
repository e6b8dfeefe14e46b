/**
 * Passing WAL from before the store's beginning on to one downstream: a connection to the upstream,
 * the WAL that it gives, and what its failures mean to the downstream. It lives as long as the
 * range is being fed.
 *
 * What the upstream answers about the WAL is the downstream's answer too. That the upstream is
 * lost is no failure of the downstream's connection: its session goes on.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { endTogether } from '../base/task-group.ts';
import { segmentRemoved } from '../store/segment-reader.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';
import { segmentName } from '../wal/segment.ts';
import type { SenderContext } from './sender-context.ts';
import { UpstreamWal } from './upstream-wal.ts';
import type { WalSource } from './wal-source.ts';

export interface OlderWalRange {
  timeline: TimelineId;
  start: Lsn;
  until: Lsn;
}

/**
 * Has `feed` send a range of older WAL, while it is received from the upstream. Rejects with what
 * `feed` throws, with the upstream's refusal, with 08006 when the upstream is lost, and with
 * PostgreSQL's 58P01 if there is none.
 */
export async function passOlderWalOn(
  context: SenderContext,
  range: OlderWalRange,
  signal: AbortSignal,
  feed: (source: WalSource, signal: AbortSignal) => Promise<void>,
): Promise<void> {
  const { clock, systemIdentifier, store } = context;
  if (!context.hasUpstream()) {
    throw segmentRemoved(segmentName(range.timeline, range.start, store.segmentBytes));
  }
  const client = await orUpstreamLost(context.connectUpstream(signal), signal);
  try {
    signal.throwIfAborted();
    const source = new UpstreamWal({
      client,
      ...range,
      segmentBytes: store.segmentBytes,
      systemIdentifier,
      clock,
      timeoutMs: () => context.settings().walReceiverTimeoutMs,
    });
    const receive = async (group: AbortSignal): Promise<void> => {
      await source.run(group);
      // All has come: the feed ends the group when all is sent.
      const forever = { timeoutMs: Number.POSITIVE_INFINITY, clock, signal: group };
      await source.served.waitPast(range.until, forever);
    };
    await endTogether(signal, [
      (group) => orUpstreamLost(receive(group), group),
      (group) => orUpstreamLost(source.supervise(group), group),
      (group) => feed(source, group),
    ]);
  } finally {
    await client.close();
  }
}

/** What `work` with the upstream gives; that the upstream is lost or goes down, told as such. */
async function orUpstreamLost<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  try {
    return await work;
  } catch (error) {
    signal.throwIfAborted();
    const isLoss = error instanceof WalcadeError && /^(?:08|57P)/.test(error.sqlstate);
    if (!isLoss) throw error;
    const details = [`${error.message}.`, ...(error.detail === undefined ? [] : [error.detail])];
    throw new WalcadeError(
      SQLSTATE.CONNECTION_FAILURE,
      'connection to upstream was lost while passing on WAL',
      {
        detail: details.join('\n'),
        hint: 'Start streaming again when the upstream is back; a standby does so by itself.',
        cause: error,
      },
    );
  }
}
