/**
 * The listening half of a WAL sender: what the downstream says while it is being sent WAL, and
 * wal_sender_timeout. It ends when the downstream ends the copy or takes leave.
 *
 * Every message counts as a sign of life (walsender.c, ProcessRepliesIfAny()): after half of the
 * timeout without one a reply is asked for, after all of it the connection is closed.
 */
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Connection } from '../protocol/connection.ts';
import { FRONTEND } from '../protocol/message-type.ts';
import {
  REPLICATION_MESSAGE,
  decodeHotStandbyFeedback,
  decodeStatusUpdate,
  encodeKeepalive,
} from '../protocol/replication-messages.ts';
import { INVALID_LSN, type Lsn } from '../wal/lsn.ts';
import type { Downstream } from './downstreams.ts';

/** How the downstream left the copy: by CopyDone, or for good by Terminate. */
export type CopyEnd = 'copy-done' | 'terminated';

export interface StatusListenerOptions {
  connection: Connection;
  downstream: Downstream;
  clock: Clock;
  timeoutMs: () => number;
  /** How far the downstream has been sent WAL, as keepalives tell it. */
  walEnd: () => Lsn;
  /** Positions have moved. */
  onStatus: () => void;
  /** What is asked to be kept may have changed. */
  onFeedback: () => void;
}

export class StatusListener {
  readonly #connection: Connection;
  readonly #downstream: Downstream;
  readonly #clock: Clock;
  readonly #options: StatusListenerOptions;
  #lastHeardMs: number;
  #hasAskedForReply = false;
  /** One is in flight; what is asked for meanwhile is one more, however often it is. */
  #isSendingKeepalive = false;
  #wantedKeepalive: { replyRequested: boolean } | undefined;
  #isCopyOver = false;

  constructor(options: StatusListenerOptions) {
    this.#options = options;
    this.#connection = options.connection;
    this.#downstream = options.downstream;
    this.#clock = options.clock;
    this.#lastHeardMs = options.clock.monotonicMs();
  }

  /**
   * Listens until the downstream ends the copy; rejects when the connection breaks off, and when
   * `signal` aborts: what comes then is for who reads next.
   */
  async listen(signal: AbortSignal): Promise<CopyEnd> {
    for (;;) {
      const { type, body } = await this.#connection.next(signal);
      this.#lastHeardMs = this.#clock.monotonicMs();
      this.#hasAskedForReply = false;
      if (type === FRONTEND.COPY_DONE) return 'copy-done';
      if (type === FRONTEND.TERMINATE) {
        // What is being sent would else be waited for, by a downstream that reads no more.
        this.#connection.close();
        return 'terminated';
      }
      if (type !== FRONTEND.COPY_DATA) {
        throw new WalcadeError(
          SQLSTATE.PROTOCOL_VIOLATION,
          `invalid standby message type "${String.fromCharCode(type)}"`,
        );
      }
      await this.#take(body);
    }
  }

  /** Watches over wal_sender_timeout until `signal` aborts; rejects once the time is over. */
  async supervise(signal: AbortSignal): Promise<void> {
    for (;;) {
      const timeoutMs = this.#options.timeoutMs();
      await this.#clock.sleep(timeoutMs > 0 ? Math.min(timeoutMs / 10, 1000) : 1000, signal);
      if (timeoutMs === 0) continue;
      const silentMs = this.#clock.monotonicMs() - this.#lastHeardMs;
      if (silentMs >= timeoutMs) {
        // At once: a downstream that stopped reading never takes what is being sent.
        this.#connection.close();
        throw new ReplicationTimeout();
      }
      if (silentMs >= timeoutMs / 2 && !this.#hasAskedForReply) {
        this.#hasAskedForReply = true;
        this.sendKeepalive({ replyRequested: true });
      }
    }
  }

  /** Tells the downstream how far it has been sent; it need not be able to take it now. */
  sendKeepalive({ replyRequested }: { replyRequested: boolean }): void {
    if (this.#isCopyOver) return;
    const isReplyWanted = replyRequested || this.#wantedKeepalive?.replyRequested === true;
    this.#wantedKeepalive = { replyRequested: isReplyWanted };
    // A connection that breaks is noticed by who reads from it.
    if (!this.#isSendingKeepalive) this.#sendKeepalives().catch(() => {});
  }

  /** The copy is about to be ended: nothing but its results may follow, so no keepalives. */
  endKeepalives(): void {
    this.#isCopyOver = true;
    this.#wantedKeepalive = undefined;
  }

  async #sendKeepalives(): Promise<void> {
    this.#isSendingKeepalive = true;
    while (this.#wantedKeepalive !== undefined) {
      const { replyRequested } = this.#wantedKeepalive;
      this.#wantedKeepalive = undefined;
      const sentAt = this.#clock.timestampUs();
      const walEnd = this.#options.walEnd();
      await this.#connection.send(encodeKeepalive({ walEnd, sentAt, replyRequested }));
    }
    this.#isSendingKeepalive = false;
  }

  async #take(body: Buffer): Promise<void> {
    const kind = body[0];
    if (kind === REPLICATION_MESSAGE.STATUS_UPDATE) this.#takeStatus(body);
    else if (kind === REPLICATION_MESSAGE.HOT_STANDBY_FEEDBACK) this.#takeFeedback(body);
    else {
      throw new WalcadeError(
        SQLSTATE.PROTOCOL_VIOLATION,
        `unexpected message type "${String.fromCharCode(kind ?? 0)}"`,
      );
    }
  }

  #takeStatus(body: Buffer): void {
    const { write, flush, apply, sentAt, replyRequested } = decodeStatusUpdate(body);
    const downstream = this.#downstream;
    downstream.write = write;
    downstream.flush = flush;
    downstream.replay = apply;
    downstream.replyTimeUs = sentAt;
    // As PhysicalConfirmReceivedLocation(): the slot follows what the downstream says is durable.
    if (downstream.slot !== undefined && flush !== INVALID_LSN) downstream.slot.restartLsn = flush;
    if (replyRequested) this.sendKeepalive({ replyRequested: false });
    this.#options.onStatus();
  }

  #takeFeedback(body: Buffer): void {
    const { xmin, catalogXmin } = decodeHotStandbyFeedback(body);
    // With a slot, what is asked for survives the connection (PhysicalReplicationSlotNewXmin()).
    const keeper = this.#downstream.slot ?? this.#downstream;
    keeper.xmin = xmin;
    keeper.catalogXmin = catalogXmin;
    this.#options.onFeedback();
  }
}

/** PostgreSQL closes such a connection without a word to the downstream, and logs this. */
export class ReplicationTimeout extends WalcadeError {
  constructor() {
    super(SQLSTATE.CONNECTION_FAILURE, 'terminating WAL sender session due to replication timeout');
  }
}
