/**
 * The WAL receiver: keeps a stream from an upstream running into the store, for as long as the node
 * runs.
 *
 *   connecting ─▶ waiting (upstream is behind, or its timeline ended) ─▶ streaming ─▶ connecting …
 *
 * Each round connects, makes sure that the upstream is of the same cluster and history, fetches the
 * history files, and streams from where the store ends: what both have there must be the same. A
 * round that breaks off is logged once and followed by the next one; corrupt WAL is dropped and
 * fetched again. It ends by its signal, or by an invariant that does not hold.
 */
import { AssertionFailed } from '../base/assert.ts';
import { retryDelayMs } from '../base/backoff.ts';
import type { Clock } from '../base/clock.ts';
import type { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReplicationClient, StreamStart } from '../protocol/client.ts';
import { UpstreamError } from '../protocol/error-response.ts';
import { describeAddress } from '../protocol/network.ts';
import { formatStartReplication } from '../protocol/replication-command.ts';
import type { ControlFile } from '../store/control-file.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import type { WalStore } from '../store/wal-store.ts';
import { WalCorruption } from '../wal/corruption.ts';
import { INVALID_LSN, type Lsn, type TimelineId, formatLsn, maxLsn } from '../wal/lsn.ts';
import type { Feedback } from './status-report.ts';
import { type TimelineEnd, timelineEndBehind } from './timeline-end.ts';
import { StoredOverlap } from './stored-overlap.ts';
import { checkSameHistory, fetchHistories } from './upstream-histories.ts';
import { createUpstreamSlot } from './upstream-slot.ts';
import {
  type UpstreamIdentity,
  checkSameCluster,
  identifySystem,
  readUpstreamPath,
  readUpstreamSettings,
} from './upstream-identity.ts';
import {
  type StreamEnd,
  type StreamSettings,
  UpstreamStream,
  parseTimelineEnd,
} from './wal-stream.ts';

export type ReceiverState = 'stopped' | 'connecting' | 'waiting' | 'streaming';

/** What status shows of the upstream connection. */
export interface ReceiverStatus {
  state: ReceiverState;
  /** Why it is not streaming, in one sentence. */
  reason?: string | undefined;
  upstream?: string | undefined;
  /** The last walEnd that the upstream told, and when it sent that (µs since 2000). */
  upstreamWalEnd?: Lsn | undefined;
  upstreamSentAtUs?: bigint | undefined;
  upstreamPath: string[];
}

export interface ReceiverSettings extends StreamSettings {
  /** wal_retrieve_retry_interval. */
  retryIntervalMs: number;
  /** primary_slot_name; undefined streams without a slot. */
  slotName: string | undefined;
}

export interface WalReceiverOptions {
  connect(signal: AbortSignal): Promise<ReplicationClient>;
  store: WalStore;
  control: ControlFile;
  histories: HistoryFiles;
  settings: () => ReceiverSettings;
  /** What the attached server has replayed; 0/0 for a relay. */
  apply: () => Lsn;
  /** Notified when `apply` gives something else. */
  applyChanged: Condition;
  feedback: () => Feedback;
  /** Notified when `feedback` may give something else. */
  feedbackChanged: Condition;
  clock: Clock;
  log: Log;
}

/** Why a round has ended: `restart` was called. */
class RestartRequested extends Error {
  override readonly name = 'RestartRequested';
}

export class WalReceiver {
  readonly #options: WalReceiverOptions;
  readonly #store: WalStore;
  readonly #clock: Clock;
  readonly #log: Log;
  #status: ReceiverStatus = { state: 'stopped', upstreamPath: [] };
  #failures = 0;
  #lastMessage: string | undefined;
  /** The highest position that was durable before a rewind: the upstream may know of it. */
  #flushedAtMost: Lsn = INVALID_LSN;
  /** Ends the current round; undefined outside of `run`. */
  #restarting: AbortController | undefined;

  constructor(options: WalReceiverOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  get status(): Readonly<ReceiverStatus> {
    return this.#status;
  }

  /** Receives until `signal` aborts; rejects with AssertionFailed only. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#restarting = new AbortController();
      const round = AbortSignal.any([signal, this.#restarting.signal]);
      try {
        await this.#store.drained(round);
        if (this.#store.needsRewind) await this.#rewind(round);
        await this.#receive(round);
      } catch (error) {
        if (error instanceof AssertionFailed) throw error;
        if (!round.aborted) this.#reportFailure(error);
      }
      const { retryIntervalMs } = this.#options.settings();
      const delayMs = retryDelayMs(this.#failures++, { maxMs: retryIntervalMs });
      await this.#clock.sleep(delayMs, round).catch(() => {});
    }
    this.#restarting = undefined;
    this.#status = { ...this.#status, state: 'stopped', reason: undefined };
  }

  /**
   * Ends the current round at once, its wait for the next one included, so that the next begins
   * with new settings. `reason` says in the log why: `parameter "primary_conninfo" has changed`.
   */
  restart(reason: string): void {
    if (this.#restarting === undefined || this.#restarting.signal.aborted) return;
    this.#log.log(`WAL receiver restarts: ${reason}`);
    this.#status = { state: 'connecting', upstreamPath: this.#status.upstreamPath };
    this.#failures = 0;
    this.#lastMessage = undefined;
    this.#restarting.abort(new RestartRequested(reason));
  }

  /** One round: from connecting to the end of the stream. */
  async #receive(signal: AbortSignal): Promise<void> {
    this.#status = { ...this.#status, state: 'connecting' };
    const client = await this.#options.connect(signal);
    const abandon = (): void => client.connection.stopReading(signal.reason as Error);
    signal.addEventListener('abort', abandon, { once: true });
    try {
      signal.throwIfAborted();
      this.#status.upstream = describeAddress(client.address);
      await this.#answered(client, () => this.#checkUpstream(client));
      for (let isFirst = true; ; isFirst = false) {
        const identity = await this.#waitUntilAhead(client, signal);
        const behind = await this.#findTimelineEnd(client, identity);
        const end: StreamEnd =
          behind === undefined
            ? await this.#stream(client, signal, await this.#overlapWith(identity, { isFirst }))
            : { kind: 'timeline-ended', ...behind };
        if (end.kind === 'upstream-shut-down') return this.#reportShutdown();
        await this.#waitAtTimelineEnd(client, end, signal);
      }
    } finally {
      signal.removeEventListener('abort', abandon);
      await client.close();
    }
  }

  /** What `ask` gives; an upstream that does not answer within wal_receiver_timeout is left. */
  async #answered<T>(client: ReplicationClient, ask: () => Promise<T>): Promise<T> {
    const { timeoutMs } = this.#options.settings();
    if (timeoutMs === 0) return ask();
    const timer = this.#clock.setTimer(timeoutMs, () => {
      const detail = `The upstream has not answered for ${timeoutMs} ms.`;
      client.connection.stopReading(
        new WalcadeError(SQLSTATE.CONNECTION_FAILURE, 'terminating WAL receiver due to timeout', {
          detail,
        }),
      );
    });
    try {
      return await ask();
    } finally {
      timer.cancel();
    }
  }

  async #checkUpstream(client: ReplicationClient): Promise<void> {
    const { control } = this.#options;
    const identity = await identifySystem(client);
    const settings = await readUpstreamSettings(client);
    checkSameCluster(identity, settings, { ...control.data, timeline: this.#store.timeline });
    await this.#checkPath(client);
    await this.#fetchHistories(client, identity);
    const known = control.data.upstreamSettings;
    if (Object.entries(settings).some(([name, value]) => known[name] !== value)) {
      await control.update({ upstreamSettings: { ...known, ...settings } });
    }
  }

  async #checkPath(client: ReplicationClient): Promise<void> {
    const path = await readUpstreamPath(client);
    if (path.includes(this.#options.control.data.nodeId)) {
      throw new WalcadeError(
        SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
        `upstream ${describeAddress(client.address)} receives its WAL from this node`,
        {
          detail: 'Following it would close a loop that no primary feeds.',
          hint: 'Point primary_conninfo at the primary, or at a node that is not below this one.',
        },
      );
    }
    this.#status.upstreamPath = path;
  }

  async #fetchHistories(client: ReplicationClient, { timeline }: UpstreamIdentity): Promise<void> {
    const { histories } = this.#options;
    const timelines = { own: this.#store.timeline, upstream: timeline };
    await fetchHistories(client, histories, timelines);
    await checkSameHistory(histories, timelines);
  }

  /**
   * Waits while the upstream is behind what is stored here, as it may be after a crash or a restart
   * (walreceiver.c does so since the minor releases of August 2026). Nothing is ever overwritten.
   * Gives what the upstream has become.
   */
  async #waitUntilAhead(client: ReplicationClient, signal: AbortSignal): Promise<UpstreamIdentity> {
    for (;;) {
      const identity = await this.#answered(client, () => identifySystem(client));
      const { timeline, walEnd } = identity;
      const { received } = this.#store;
      if (timeline !== this.#store.timeline || walEnd >= received) return identity;
      this.#wait(`upstream is at ${formatLsn(walEnd)}, behind this node at ${formatLsn(received)}`);
      await this.#clock.sleep(this.#options.settings().retryIntervalMs, signal);
    }
  }

  /** The end of this node's timeline if there is no more to ask for; see timelineEndBehind(). */
  async #findTimelineEnd(
    client: ReplicationClient,
    identity: UpstreamIdentity,
  ): Promise<TimelineEnd | undefined> {
    if (identity.timeline === this.#store.timeline) return undefined;
    // The upstream may have been promoted since it was checked.
    await this.#answered(client, () => this.#fetchHistories(client, identity));
    const history = await this.#options.histories.history(identity.timeline);
    return timelineEndBehind(history, this.#store);
  }

  /** What is compared: by the first stream of a connection, on a timeline that goes on there. */
  async #overlapWith(
    { timeline }: UpstreamIdentity,
    { isFirst }: { isFirst: boolean },
  ): Promise<StoredOverlap | undefined> {
    if (!isFirst || timeline !== this.#store.timeline) return undefined;
    return StoredOverlap.read(this.#store);
  }

  async #stream(
    client: ReplicationClient,
    signal: AbortSignal,
    overlap: StoredOverlap | undefined,
  ): Promise<StreamEnd> {
    const { settings, apply, applyChanged, feedback, feedbackChanged } = this.#options;
    const { timeline, received } = this.#store;
    const start = overlap?.start ?? received;
    const answer = await this.#startStream(client, { start, timeline });
    if (answer.kind === 'results') return parseTimelineEnd(answer.results);
    const provenBefore = this.#store.proven;
    this.#status = { ...this.#status, state: 'streaming', reason: undefined };
    const from = `${this.#status.upstream} at ${formatLsn(received)} on timeline ${timeline}`;
    this.#log.log(`started streaming WAL from ${from}`);
    const stream = new UpstreamStream({
      client,
      store: this.#store,
      overlap,
      clock: this.#clock,
      settings,
      apply,
      applyChanged,
      feedback,
      feedbackChanged,
      onUpstreamPosition: (walEnd, sentAtUs) => {
        this.#status.upstreamWalEnd = walEnd;
        this.#status.upstreamSentAtUs = sentAtUs;
        // CopyBoth promises nothing, WAL may be gone, corrupt or another's: what came is a success.
        const { proven } = this.#store;
        if (overlap?.next !== undefined || (proven === provenBefore && walEnd > proven)) return;
        this.#failures = 0;
        this.#lastMessage = undefined;
      },
    });
    try {
      return await stream.run(signal);
    } catch (error) {
      throw this.#explainMissingWal(error);
    }
  }

  /** Starts the stream; the slot is made if it is not there, as with an upstream that is new. */
  async #startStream(
    client: ReplicationClient,
    position: { start: Lsn; timeline: TimelineId },
  ): Promise<StreamStart> {
    const { slotName: slot } = this.#options.settings();
    const options = { ...position, ...(slot === undefined ? {} : { slot }) };
    const command = formatStartReplication(options);
    try {
      return await this.#answered(client, () => client.startCopyBoth(command));
    } catch (error) {
      const isMissing = asWalcadeError(error).sqlstate === SQLSTATE.UNDEFINED_OBJECT;
      if (slot === undefined || !isMissing) throw error;
    }
    await this.#answered(client, () => createUpstreamSlot(client, slot));
    this.#log.log(`replication slot "${slot}" was not there on the upstream and has been made`);
    return this.#answered(client, () => client.startCopyBoth(command));
  }

  async #rewind(signal: AbortSignal): Promise<void> {
    this.#flushedAtMost = maxLsn(this.#flushedAtMost, this.#store.flushed);
    await this.#store.rewind(signal);
  }

  /** What is to be done about WAL that the upstream has not any more; other errors as they are. */
  #explainMissingWal(error: unknown): unknown {
    if (!(error instanceof UpstreamError) || error.sqlstate !== SQLSTATE.UNDEFINED_FILE) {
      return error;
    }
    const needed = this.#store.received;
    const facts = [`This node needs WAL from ${formatLsn(needed)} on.`];
    if (this.#flushedAtMost > needed) {
      const flushed = formatLsn(this.#flushedAtMost);
      facts.push(`It had reported all up to ${flushed} as durable before that proved corrupt.`);
    }
    return new WalcadeError(error.sqlstate, error.message, {
      detail: facts.join(' '),
      hint: 'Point primary_conninfo at a server that still has this WAL, or make the node anew.',
      cause: error,
    });
  }

  #reportShutdown(): void {
    this.#failures = 1;
    const end = formatLsn(this.#store.received);
    this.#log.log(`replication terminated by upstream at ${end}`);
    this.#status = { ...this.#status, state: 'connecting', reason: 'the upstream has shut down' };
  }

  async #waitAtTimelineEnd(
    client: ReplicationClient,
    end: StreamEnd & { kind: 'timeline-ended' },
    signal: AbortSignal,
  ): Promise<void> {
    const { timeline } = this.#store;
    const switchPoint = formatLsn(end.switchPoint);
    this.#wait(`timeline ${timeline} has ended at ${switchPoint}, timeline ${end.next} follows it`);
    await this.#clock.sleep(this.#options.settings().retryIntervalMs, signal);
    await this.#answered(client, async () =>
      this.#fetchHistories(client, await identifySystem(client)),
    );
  }

  #wait(reason: string): void {
    if (this.#status.reason !== reason) this.#log.log(`waiting: ${reason}`);
    this.#status = { ...this.#status, state: 'waiting', reason };
  }

  /** Logs why a round broke off, once for each reason; a lost connection is a change of state. */
  #reportFailure(error: unknown): void {
    const failure = asWalcadeError(error);
    const { message, detail, sqlstate } = failure;
    this.#status = { ...this.#status, state: 'connecting', reason: message };
    if (this.#lastMessage === message) return;
    this.#lastMessage = message;
    if (failure instanceof WalCorruption) {
      const proven = formatLsn(this.#store.proven);
      this.#log.error(
        new WalcadeError(sqlstate, `received corrupt WAL from upstream: ${message}`, {
          detail: `WAL up to ${proven} is good; what follows is fetched again.`,
          hint: "Check the upstream's disk and the network between if this comes again.",
        }),
      );
    } else if (needsHuman(sqlstate)) this.#log.error(failure);
    else this.#log.log(message, detail);
  }
}

/** Connections come and go by themselves; anything else stays until somebody does something. */
function needsHuman(sqlstate: string): boolean {
  return !sqlstate.startsWith('08') && !sqlstate.startsWith('57P');
}
