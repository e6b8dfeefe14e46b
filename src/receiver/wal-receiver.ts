/**
 * The WAL receiver: brings WAL into the store for as long as the node runs, from an archive and an
 * upstream in turns, as xlogrecovery.c, WaitForWALToBecomeAvailable() does.
 *
 *   restoring ─▶ connecting ─▶ waiting (upstream is behind, its timeline ended) ─▶ streaming ─▶ …
 *
 * Each round takes what the archive has and then holds one session with the upstream
 * (upstream-session.ts), if there are such. A round that breaks off is logged once, and the next
 * follows; corrupt WAL is dropped and fetched again. It ends by its signal or a broken invariant.
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
import { LINK_COMPRESSION, type LinkCompression } from '../protocol/node-parameters.ts';
import { FsyncFailed } from '../store/disk-refusal.ts';
import type { WalStore } from '../store/wal-store.ts';
import { WalCorruption } from '../wal/corruption.ts';
import { INVALID_LSN, type Lsn, type TimelineId, formatLsn, maxLsn } from '../wal/lsn.ts';
import {
  type SessionEvents,
  UpstreamSession,
  type UpstreamSessionOptions,
} from './upstream-session.ts';

export type ReceiverState = 'stopped' | 'restoring' | 'connecting' | 'waiting' | 'streaming';

/** How WAL comes on a connection, and how much has come. */
export interface UpstreamLink {
  readonly compression: LinkCompression;
  readonly wireBytes: () => number;
  walBytes: number;
}

/** What status shows of where WAL comes from. */
export interface ReceiverStatus {
  state: ReceiverState;
  /** Why it is not streaming, in one sentence; what is being restored. */
  reason?: string | undefined;
  upstream?: string | undefined;
  /** The timeline that it was on when it was asked last. */
  upstreamTimeline?: TimelineId | undefined;
  /** The last walEnd that the upstream told, and when it sent that (µs since 2000). */
  upstreamWalEnd?: Lsn | undefined;
  upstreamSentAtUs?: bigint | undefined;
  /** The connection, and how much it has brought. */
  link?: UpstreamLink | undefined;
  upstreamPath: string[];
}

/** An archive of WAL, which is asked while no stream is appending. */
export interface ArchiveSource {
  /**
   * Takes all that it has into the store; `onSegment` is told which segment is asked for. `end` is
   * why there is no more, and what is known besides. Rejects when it cannot be asked any further.
   */
  restore(
    onSegment: (name: string) => void,
    signal: AbortSignal,
  ): Promise<{ broughtWal: boolean; end: { reason: string; detail: string } }>;
}

export interface WalReceiverOptions extends UpstreamSessionOptions {
  /** Whether there is an upstream to connect to. */
  hasUpstream: () => boolean;
  /** Resolves when a round may begin: until then nothing is received, nor the store changed. */
  mayBegin(signal: AbortSignal): Promise<void>;
  /** The archive that may be asked now, if there is one. */
  openArchive(): ArchiveSource | undefined;
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
  /** What was told last: why a round broke off, why the archive did, what is waited for. */
  #lastMessage: string | undefined;
  #lastArchiveMessage: string | undefined;
  #lastWait: string | undefined;
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
        await this.#options.mayBegin(round);
        await this.#store.drained(round);
        if (this.#store.needsRewind) await this.#rewind(round);
        await this.#restore(round);
        if (this.#options.hasUpstream()) await this.#receive(round);
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
    this.#beginAnew();
    this.#restarting.abort(new RestartRequested(reason));
  }

  #setPath(path: string[]): void {
    if (isDeepStrictEqual(path, this.#status.upstreamPath)) return;
    this.#status.upstreamPath = path;
    this.pathChanged.notify();
  }

  /** The first half of a round: what the archive has. That it fails is no reason not to stream. */
  async #restore(signal: AbortSignal): Promise<void> {
    const archive = this.#options.openArchive();
    if (archive === undefined) return this.#tellWithoutSource();
    const { reason } = this.#status;
    try {
      const { broughtWal, end } = await archive.restore(
        (name) => this.#setState('restoring', `${name} from the archive`),
        signal,
      );
      this.#lastArchiveMessage = undefined;
      if (broughtWal) this.#beginAnew();
      if (this.#options.hasUpstream()) this.#setState('connecting', reason);
      else this.#wait(end.reason, end.detail);
    } catch (error) {
      const isFatal = error instanceof AssertionFailed || error instanceof FsyncFailed;
      if (isFatal || signal.aborted || this.#store.failure !== undefined) throw error;
      const { message } = asWalcadeError(error);
      this.#setState('connecting', message);
      if (this.#lastArchiveMessage !== message) this.#log.error(error);
      this.#lastArchiveMessage = message;
      if (this.#store.needsRewind) await this.#rewind(signal);
    }
  }

  /** As PostgreSQL's startup process complains (xlogrecovery.c, validateRecoveryParameters()). */
  #tellWithoutSource(): void {
    if (this.#options.hasUpstream()) return;
    const message = 'specified neither "primary_conninfo" nor "restore_command"';
    if (this.#status.reason === message) return;
    this.#setState('waiting', message);
    const hint = 'Set one of the two and reload: until then the node receives no WAL.';
    const { OBJECT_NOT_IN_PREREQUISITE_STATE: sqlstate } = SQLSTATE;
    this.#log.warning(new WalcadeError(sqlstate, message, { hint }));
  }

  /** The second half: from connecting to the end of the session. */
  async #receive(signal: AbortSignal): Promise<void> {
    this.#status = { ...this.#status, state: 'connecting' };
    const client = await this.#options.connect(signal);
    const abandon = (): void => client.connection.stopReading(signal.reason as Error);
    signal.addEventListener('abort', abandon, { once: true });
    try {
      signal.throwIfAborted();
      this.#status.upstream = describeAddress(client.address);
      this.#status.link = linkOf(client);
      const end = await new UpstreamSession(client, this.#options, this.#events).run(signal);
      if (end === 'upstream-shut-down') this.#reportShutdown();
    } catch (error) {
      throw this.#explainMissingWal(error);
    } finally {
      signal.removeEventListener('abort', abandon);
      this.#status.link = undefined;
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
    onWaiting: (reason) => this.#wait(reason),
    onStreaming: () => {
      const { timeline, received } = this.#store;
      this.#setState('streaming');
      const from = `${this.#status.upstream} at ${formatLsn(received)} on timeline ${timeline}`;
      this.#log.log(`started streaming WAL from ${from}`);
    },
    onWal: (bytes) => {
      if (this.#status.link !== undefined) this.#status.link.walBytes += bytes;
    },
    onPosition: (walEnd, sentAtUs, isGood) => {
      this.#status.upstreamWalEnd = walEnd;
      this.#status.upstreamSentAtUs = sentAtUs;
      if (isGood) this.#beginAnew();
    },
  };

  #setState(state: ReceiverState, reason?: string): void {
    this.#status = { ...this.#status, state, reason };
  }

  /** Waits for what only time brings: told once, whatever is tried meanwhile. */
  #wait(reason: string, detail?: string): void {
    if (this.#lastWait !== reason) this.#log.log(`waiting: ${reason}`, detail);
    this.#lastWait = reason;
    this.#setState('waiting', reason);
  }

  /** WAL has come, or other settings: what goes wrong from now on is news. */
  #beginAnew(): void {
    this.#failures = 0;
    this.#lastMessage = undefined;
    this.#lastWait = undefined;
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
      hint:
        'Point primary_conninfo at a server that still has this WAL, or restore_command at an ' +
        'archive that has it, or make the node anew.',
      cause: error,
    });
  }

  #reportShutdown(): void {
    this.#failures = 1;
    const end = formatLsn(this.#store.received);
    this.#log.log(`replication terminated by upstream at ${end}`);
    this.#setState('connecting', 'the upstream has shut down');
  }

  /** Logs why a round broke off, once for each reason; a lost connection is a change of state. */
  #reportFailure(error: unknown): void {
    const failure = asWalcadeError(error);
    const { message, detail, sqlstate } = failure;
    this.#setState('connecting', message);
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

function linkOf({ parameters, connection }: ReplicationClient): UpstreamLink {
  return {
    compression: parameters.get(LINK_COMPRESSION) === 'zstd' ? 'zstd' : 'off',
    wireBytes: () => connection.traffic.readBytes,
    walBytes: 0,
  };
}

/** Connections come and go by themselves; anything else stays until somebody does something. */
function needsHuman(sqlstate: string): boolean {
  return !sqlstate.startsWith('08') && !sqlstate.startsWith('57P');
}
