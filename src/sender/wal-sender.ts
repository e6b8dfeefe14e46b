/**
 * One START_REPLICATION: from the command to the results that end it.
 *
 *   startup ─▶ catchup ⇄ streaming ─▶ stopping        (as in pg_stat_replication)
 *
 * WAL that the store has comes from the store, older WAL from the upstream; both join in one
 * stream. It ends at the end of a historic timeline, when the downstream ends the copy, when the
 * node stops (all is sent and acknowledged first), or with the connection.
 */
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { endTogether } from '../base/task-group.ts';
import {
  COPY_DONE,
  TYPE_OID,
  encodeCommandComplete,
  encodeCopyBothResponse,
  encodeDataRow,
  encodeRowDescription,
} from '../protocol/backend-messages.ts';
import type { Connection } from '../protocol/connection.ts';
import type { StartReplication } from '../protocol/replication-command.ts';
import type { Zstd } from '../protocol/zstd.ts';
import { partingPoint } from '../wal/history-parting.ts';
import { isInHistory, parseHistoryFile, switchPointOf } from '../wal/history.ts';
import {
  INVALID_LSN,
  type Lsn,
  type TimelineId,
  distance,
  formatLsn,
  lsn,
  minLsn,
} from '../wal/lsn.ts';
import { type DivergedDownstream, divergenceOf } from './diverged-downstreams.ts';
import { feedCompressedWal } from './compressed-feed.ts';
import type { Downstream } from './downstreams.ts';
import type { SenderContext } from './sender-context.ts';
import { passOlderWalOn } from './older-wal.ts';
import { tellUpstreamPath } from './path-teller.ts';
import { type CopyEnd, StatusListener } from './status-listener.ts';
import { type WalFeedOptions, feedWal } from './wal-feed.ts';
import { type WalSource, storeSource } from './wal-source.ts';

const END_OF_TIME: Lsn = lsn(0xffff_ffff_ffff_ffffn);

/** How often a downstream is asked for its positions while the node waits to stop. */
const DRAIN_REPLY_INTERVAL_MS = 1000;

export interface WalSenderOptions {
  connection: Connection;
  downstream: Downstream;
  context: SenderContext;
  /** The downstream is a node, which is told the nodes above it. */
  isNode: boolean;
  /** What WAL is compressed with, if the downstream has asked for it. */
  zstd: Zstd | undefined;
  /** Aborts when the node stops in peace: what is left is sent, then the session ends. */
  stopping: AbortSignal;
  log: Log;
}

/** Where a stream begins and ends, and which timeline follows. */
interface StreamPlan {
  timeline: TimelineId;
  start: Lsn;
  /** Of a historic timeline, also one that becomes it: where it was left, and for which. */
  next: { next: TimelineId; switchPoint: Lsn } | undefined;
}

/** How the session goes on: with the next command, or not at all. */
export type SenderOutcome = 'ready' | 'closed';

class NodeStops extends Error {}

/** The store goes on with another timeline: the plan is to be made anew. */
class StoreBranched extends Error {}

export class WalSender {
  readonly #connection: Connection;
  readonly #downstream: Downstream;
  readonly #context: SenderContext;
  readonly #isNode: boolean;
  readonly #zstd: Zstd | undefined;
  readonly #stopping: AbortSignal;
  readonly #listener: StatusListener;
  readonly #acknowledged = new Condition();
  readonly #log: Log;
  #current: StreamPlan | undefined;

  constructor(options: WalSenderOptions) {
    const { connection, downstream, context, isNode, zstd, stopping, log } = options;
    this.#log = log;
    this.#connection = connection;
    this.#downstream = downstream;
    this.#context = context;
    this.#isNode = isNode;
    this.#zstd = zstd;
    this.#stopping = stopping;
    this.#listener = new StatusListener({
      connection,
      downstream,
      clock: context.clock,
      timeoutMs: () => context.settings().walSenderTimeoutMs,
      // A downstream may ask for more than there is here, and is not told that it was sent that.
      walEnd: () => minLsn(downstream.sent, context.store.served.value),
      onStatus: () => {
        context.downstreams.noteReplay(downstream);
        this.#acknowledged.notify();
        this.#noteReplay();
      },
      onFeedback: () => context.downstreams.feedbackChanged.notify(),
    });
  }

  /** Runs the command to its end. Throws what PostgreSQL would answer as an ERROR. */
  async run(command: StartReplication): Promise<SenderOutcome> {
    const { slots } = this.#context;
    const { pid } = this.#downstream;
    const slot = command.slot === undefined ? undefined : slots.acquire(command.slot, pid);
    try {
      const plan = await this.#plan(command);
      this.#downstream.slot = slot;
      this.#downstream.timeline = plan.timeline;
      this.#current = plan;
      return await this.#stream(plan);
    } finally {
      this.#downstream.slot = undefined;
      this.#downstream.state = 'startup';
      if (slot !== undefined && !slot.temporary) slots.release(slot);
    }
  }

  /** Checks the position against this node's history (walsender.c, StartReplication()). */
  async #plan({ start, timeline: asked }: StartReplication): Promise<StreamPlan> {
    const { store } = this.#context;
    const timeline = asked ?? store.timeline;
    if (!isInHistory(store.history, timeline)) await this.#noteSideBranch({ start, timeline });
    const next = switchPointOf(store.history, timeline);
    if (next !== undefined && start > next.switchPoint) {
      const { switchPoint } = next;
      this.#noteDivergence({ position: start, timeline, switchPoint, leftTimeline: timeline });
      throw new WalcadeError(
        SQLSTATE.INTERNAL_ERROR,
        `requested starting point ${formatLsn(start)} on timeline ${timeline} ` +
          "is not in this server's history",
        {
          detail:
            `This server's history forked from timeline ${timeline} ` +
            `at ${formatLsn(next.switchPoint)}.`,
        },
      );
    }
    return { timeline, start, next };
  }

  /** Of a timeline that was left, a standby may have replayed more than is in this history. */
  #noteReplay(): void {
    const { timeline, next } = this.#current ?? {};
    const { replay: position } = this.#downstream;
    if (timeline === undefined || next === undefined || position <= next.switchPoint) return;
    const { switchPoint } = next;
    this.#noteDivergence({ position, timeline, switchPoint, leftTimeline: timeline });
  }

  /** Who is on a timeline that this history went past cannot go on; one ahead of it can, later. */
  async #noteSideBranch({ start, timeline }: { start: Lsn; timeline: TimelineId }): Promise<void> {
    const { store, histories } = this.#context;
    const file = await histories.read(timeline);
    if (file === undefined) return;
    const other = parseHistoryFile(timeline, file);
    if (isInHistory(other, store.timeline)) return;
    const parting = partingPoint(store.history, other);
    if (parting?.timeline === undefined) return;
    const { timeline: leftTimeline, position: switchPoint } = parting;
    this.#noteDivergence({ position: start, timeline, switchPoint, leftTimeline });
  }

  #noteDivergence(
    at: Omit<DivergedDownstream, 'applicationName' | 'user' | 'peer' | 'isAttached'>,
  ): void {
    const { downstreams, clock } = this.#context;
    const { applicationName, user, peer, isAttached } = this.#downstream;
    const diverged = { applicationName, user, peer, isAttached, ...at };
    const isNews = downstreams.diverged.note(diverged, clock.monotonicMs());
    if (isNews) this.#log.warning(divergenceOf(diverged));
  }

  async #stream(plan: StreamPlan): Promise<SenderOutcome> {
    if (plan.next?.switchPoint === plan.start) {
      await this.#sendResults(plan);
      return 'ready';
    }
    let outcome: SenderOutcome = 'closed';
    const copy = async (): Promise<void> => {
      outcome = await this.#copyBoth(plan);
    };
    // A downstream that stops reading is ended wherever that is; the copy ends by the connection.
    const { signal } = new AbortController();
    await endTogether(signal, [copy, (group) => this.#listener.supervise(group)]);
    return outcome;
  }

  /** The copy: feeding and listening until one of the two sides ends it, and its results. */
  async #copyBoth(plan: StreamPlan): Promise<SenderOutcome> {
    const { closed } = this.#connection;
    this.#downstream.state = 'catchup';
    this.#downstream.sent = plan.start;
    await this.#connection.send(encodeCopyBothResponse());
    const stopTelling = this.#isNode
      ? tellUpstreamPath(this.#connection, this.#context)
      : (): void => {};
    let end: CopyEnd | 'stopped' | undefined;
    const listen = async (signal: AbortSignal): Promise<void> => {
      const left = await this.#listener.listen(signal);
      end ??= left;
    };
    const feed = async (signal: AbortSignal): Promise<void> => {
      const fed = await this.#feedOrStop(plan, signal);
      end ??= fed;
    };
    try {
      await endTogether(closed, [feed, listen]);
    } finally {
      stopTelling();
      this.#listener.endKeepalives();
    }
    if (end === 'stopped') await this.#connection.send(encodeCommandComplete('COPY 0'));
    if (end === 'stopped' || end === 'terminated') return 'closed';
    await this.#connection.send(COPY_DONE);
    end ??= await this.#listener.listen(closed);
    if (end === 'terminated') return 'closed';
    await this.#sendResults(plan);
    return 'ready';
  }

  async #sendResults({ next }: StreamPlan): Promise<void> {
    if (next !== undefined) await this.#connection.send(timelineEnd(next));
    await this.#connection.send(encodeCommandComplete('START_STREAMING'));
    await this.#connection.send(encodeCommandComplete('START_REPLICATION'));
  }

  /** Feeds to the end of the plan; `stopped` when the node stops and all was acknowledged. */
  async #feedOrStop(plan: StreamPlan, signal: AbortSignal): Promise<'stopped' | undefined> {
    const stop = new AbortController();
    const onStop = (): void => stop.abort(new NodeStops());
    const onAbort = (): void => stop.abort(signal.reason);
    this.#stopping.addEventListener('abort', onStop, { once: true });
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    // While the node stops the feed goes on until nothing is left: only its waiting ends.
    try {
      await this.#feed(plan, stop);
      return undefined;
    } catch (error) {
      if (!(error instanceof NodeStops)) throw error;
      await this.#drain(plan, signal);
      return 'stopped';
    } finally {
      this.#stopping.removeEventListener('abort', onStop);
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #feed(plan: StreamPlan, stop: AbortController): Promise<void> {
    const { store } = this.#context;
    for (;;) {
      if (this.#stopping.aborted) stop.abort(new NodeStops());
      plan.next = switchPointOf(store.history, plan.timeline);
      const end = endOf(plan);
      const { sent } = this.#downstream;
      if (sent >= end) return;
      await this.#untilBranched(stop.signal, (signal) =>
        sent < store.oldest
          ? this.#feedFromUpstream(plan, minLsn(store.oldest, end), signal)
          : this.#feedFrom(storeSource(store), end, signal),
      );
    }
  }

  /** Runs `feed`, which begins at once, at most until the store branches. */
  async #untilBranched(
    signal: AbortSignal,
    feed: (signal: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const branched = new AbortController();
    const stopListening = this.#context.store.branched.listen(() =>
      branched.abort(new StoreBranched()),
    );
    try {
      await feed(AbortSignal.any([signal, branched.signal]));
    } catch (error) {
      if (!(error instanceof StoreBranched)) throw error;
    } finally {
      stopListening();
    }
  }

  async #feedFrom(source: WalSource, until: Lsn, signal: AbortSignal): Promise<void> {
    const { clock, store, downstreams } = this.#context;
    const downstream = this.#downstream;
    const zstd = this.#zstd;
    const options: WalFeedOptions = {
      start: downstream.sent,
      until,
      clock,
      signal,
      onSent: (sent) => {
        downstream.walBytes += distance(downstream.sent, sent);
        downstream.sent = sent;
      },
      onCaughtUp: () => {
        // A downstream that has all the older WAL that came so far has not caught up.
        const hasCaughtUp = downstream.sent >= store.served.value;
        if (hasCaughtUp && downstream.state === 'catchup') downstream.state = 'streaming';
      },
    };
    try {
      if (zstd === undefined) {
        const isLive = source.served === store.served;
        const live = isLive ? downstreams.live.of(source, clock) : undefined;
        await feedWal(source, this.#connection, options, live);
      } else {
        const compressor = { zstd, frames: downstreams.frames };
        await feedCompressedWal(source, this.#connection, compressor, options);
      }
    } catch (error) {
      const isRemoved = error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE;
      // Removed while it was being read: the upstream may have it still.
      if (!isRemoved || this.#downstream.sent >= store.oldest) throw error;
    }
  }

  #feedFromUpstream({ timeline }: StreamPlan, until: Lsn, signal: AbortSignal): Promise<void> {
    const range = { timeline, start: this.#downstream.sent, until };
    return passOlderWalOn(this.#context, range, signal, (source, group) =>
      this.#feedFrom(source, until, group),
    );
  }

  /** Sends what is left and waits until the downstream has it, as walsender.c, WalSndDone(). */
  async #drain(plan: StreamPlan, signal: AbortSignal): Promise<void> {
    const { store, clock } = this.#context;
    this.#downstream.state = 'stopping';
    const until = minLsn(store.served.value, endOf(plan));
    if (this.#downstream.sent >= store.oldest && this.#downstream.sent < until) {
      await this.#feedFrom(storeSource(store), until, signal);
    }
    let askedMs = Number.NEGATIVE_INFINITY;
    while (!this.#hasAll()) {
      // More than once: what has been written may become durable after the answer, unreported.
      if (clock.monotonicMs() - askedMs >= DRAIN_REPLY_INTERVAL_MS) {
        this.#listener.sendKeepalive({ replyRequested: true });
        askedMs = clock.monotonicMs();
      }
      await this.#acknowledged.waitAtMost(DRAIN_REPLY_INTERVAL_MS, clock, signal);
    }
  }

  #hasAll(): boolean {
    const { sent, write, flush } = this.#downstream;
    return (flush === INVALID_LSN ? write : flush) >= sent;
  }
}

function endOf({ next }: StreamPlan): Lsn {
  return next?.switchPoint ?? END_OF_TIME;
}

/** Which timeline follows the one that was streamed, and from where (WalSndDone's result set). */
function timelineEnd({ next, switchPoint }: { next: TimelineId; switchPoint: Lsn }): Buffer {
  return Buffer.concat([
    encodeRowDescription([
      { name: 'next_tli', typeOid: TYPE_OID.INT8, typeBytes: 8 },
      { name: 'next_tli_startpos', typeOid: TYPE_OID.TEXT },
    ]),
    encodeDataRow([String(next), formatLsn(switchPoint)]),
  ]);
}
