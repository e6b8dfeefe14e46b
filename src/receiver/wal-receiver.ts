/**
 * The WAL receiver: keeps a stream from an upstream running into the store, for as long as the node
 * runs.
 *
 *   connecting ─▶ waiting (upstream is behind, or its timeline ended) ─▶ streaming ─▶ connecting …
 *
 * Each round is one session with the upstream (upstream-session.ts). A round that breaks off is
 * logged once and followed by the next one; corrupt WAL is dropped and fetched again. It ends by
 * its signal, or by an invariant that does not hold.
 */
import { isDeepStrictEqual } from 'node:util';
import { AssertionFailed } from '../base/assert.ts';
import { retryDelayMs } from '../base/backoff.ts';
import type { Clock } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { UpstreamError } from '../protocol/error-response.ts';
import { describeAddress } from '../protocol/network.ts';
import type { WalStore } from '../store/wal-store.ts';
import { WalCorruption } from '../wal/corruption.ts';
import { INVALID_LSN, type Lsn, type TimelineId, formatLsn, maxLsn } from '../wal/lsn.ts';
import {
  type SessionEvents,
  UpstreamSession,
  type UpstreamSessionOptions,
} from './upstream-session.ts';

export type ReceiverState = 'stopped' | 'connecting' | 'waiting' | 'streaming';

/** What status shows of the upstream connection. */
export interface ReceiverStatus {
  state: ReceiverState;
  /** Why it is not streaming, in one sentence. */
  reason?: string | undefined;
  upstream?: string | undefined;
  /** The timeline that it was on when it was asked last. */
  upstreamTimeline?: TimelineId | undefined;
  /** The last walEnd that the upstream told, and when it sent that (µs since 2000). */
  upstreamWalEnd?: Lsn | undefined;
  upstreamSentAtUs?: bigint | undefined;
  upstreamPath: string[];
}

export interface WalReceiverOptions extends UpstreamSessionOptions {
  connect(signal: AbortSignal): Promise<ReplicationClient>;
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
  /** Notified when the nodes above this one have changed. */
  readonly pathChanged = new Condition();
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
    this.#setPath([]);
    this.#failures = 0;
    this.#lastMessage = undefined;
    this.#restarting.abort(new RestartRequested(reason));
  }

  #setPath(path: string[]): void {
    if (isDeepStrictEqual(path, this.#status.upstreamPath)) return;
    this.#status.upstreamPath = path;
    this.pathChanged.notify();
  }

  /** One round: from connecting to the end of the session. */
  async #receive(signal: AbortSignal): Promise<void> {
    this.#status = { ...this.#status, state: 'connecting' };
    const client = await this.#options.connect(signal);
    const abandon = (): void => client.connection.stopReading(signal.reason as Error);
    signal.addEventListener('abort', abandon, { once: true });
    try {
      signal.throwIfAborted();
      this.#status.upstream = describeAddress(client.address);
      await new UpstreamSession(client, this.#options, this.#events).run(signal);
      this.#reportShutdown();
    } catch (error) {
      throw this.#explainMissingWal(error);
    } finally {
      signal.removeEventListener('abort', abandon);
      await client.close();
    }
  }

  readonly #events: SessionEvents = {
    onPath: (path) => {
      this.#setPath(path);
    },
    onTimeline: (timeline) => {
      this.#status.upstreamTimeline = timeline;
    },
    onWaiting: (reason) => {
      if (this.#status.reason !== reason) this.#log.log(`waiting: ${reason}`);
      this.#status = { ...this.#status, state: 'waiting', reason };
    },
    onStreaming: () => {
      const { timeline, received } = this.#store;
      this.#status = { ...this.#status, state: 'streaming', reason: undefined };
      const from = `${this.#status.upstream} at ${formatLsn(received)} on timeline ${timeline}`;
      this.#log.log(`started streaming WAL from ${from}`);
    },
    onPosition: (walEnd, sentAtUs, isGood) => {
      this.#status.upstreamWalEnd = walEnd;
      this.#status.upstreamSentAtUs = sentAtUs;
      if (!isGood) return;
      this.#failures = 0;
      this.#lastMessage = undefined;
    },
  };

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
