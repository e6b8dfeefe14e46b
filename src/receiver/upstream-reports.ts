/**
 * What the upstream is told while it streams: positions as they move, at the latest once an
 * interval, and what everything below this node asks to be kept (walreceiver.c,
 * XLogWalRcvSendReply() and XLogWalRcvSendHSFeedback()).
 *
 * They live as long as the stream, and never wait for the upstream: while it takes nothing, what is
 * due is put off and becomes one message. What is only written is held back for a moment where
 * syncs are fast, to be told as durable at once.
 */
import type { Clock, Timer } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import type { Connection } from '../protocol/connection.ts';
import { encodeHotStandbyFeedback, encodeStatusUpdate } from '../protocol/replication-messages.ts';
import type { WalStore } from '../store/wal-store.ts';
import { type Lsn, minLsn } from '../wal/lsn.ts';
import {
  type Feedback,
  type ReportTimes,
  type ReportedPositions,
  isFeedbackDue,
  isFeedbackLookDue,
  isReportDue,
  isWriteHeld,
} from './status-report.ts';

/** How often a report is sent while nothing is read from the upstream. */
const BLOCKED_REPORT_INTERVAL_MS = 1000;
const LOOK_INTERVAL_MS = 1000;
/** For how long a position that is written may wait to be told with the sync that is running. */
const WRITE_HELD_MS_MAX = 5;

export interface UpstreamReportsOptions {
  connection: Connection;
  store: WalStore;
  clock: Clock;
  /** wal_receiver_status_interval; 0 reports only what changed or was asked for. */
  statusIntervalMs: () => number;
  /** What the attached server has replayed: 0/0 for a relay, which replays nothing. */
  apply: () => Lsn;
  /** Notified when `apply` gives something else. */
  applyChanged: Condition;
  /** What everything below this node asks to be kept. */
  feedback: () => Feedback;
  /** Notified when `feedback` may give something else. */
  feedbackChanged: Condition;
}

export class UpstreamReports {
  readonly #options: UpstreamReportsOptions;
  readonly #connection: Connection;
  readonly #store: WalStore;
  readonly #clock: Clock;
  /** Notified when the store takes nothing more. */
  readonly #failed = new Condition();
  /** Nothing is read from the upstream, so what it asks is not seen. */
  isBlocked = false;
  #isReplyWanted = false;
  #reported: ReportedPositions | undefined;
  #reportedFeedback: Feedback | undefined;
  #reportedMs = 0;
  #feedbackMs = 0;
  #feedbackLookMs = Number.NEGATIVE_INFINITY;
  #hasNewFeedback = true;
  #isLookDue = false;
  #isRunning = false;
  /** The upstream has not taken yet what was sent last. */
  #isSending = false;
  #writeAlone: Timer | undefined;

  constructor(options: UpstreamReportsOptions) {
    this.#options = options;
    this.#connection = options.connection;
    this.#store = options.store;
    this.#clock = options.clock;
  }

  /** Reports until `signal` aborts; rejects when the store takes nothing more. */
  async run(signal: AbortSignal): Promise<void> {
    const { applyChanged, feedbackChanged } = this.#options;
    const stopListening = [
      this.#store.progress.listen(() => this.#wake()),
      applyChanged.listen(() => this.#wake()),
      feedbackChanged.listen(() => {
        this.#hasNewFeedback = true;
        this.#wake();
      }),
    ];
    this.#isRunning = true;
    try {
      for (;;) {
        if (this.#store.failure !== undefined) throw this.#store.failure;
        this.#sendWhatIsDue();
        await this.#failed.waitAtMost(LOOK_INTERVAL_MS, this.#clock, signal);
      }
    } finally {
      this.#isRunning = false;
      for (const stop of stopListening) stop();
      this.#writeAlone?.cancel();
    }
  }

  /** The upstream has asked for a reply. */
  replySoon(): void {
    this.#isReplyWanted = true;
    this.#wake();
  }

  /** Asks the upstream for a sign of life, telling the positions. */
  askForReply(): void {
    this.#sendStatus(this.#positions(), { replyRequested: true });
  }

  /** The last report; resolves when the upstream has it, or never will. */
  async sendLast(): Promise<void> {
    this.#sendStatus(this.#positions(), { replyRequested: false });
    await this.#connection.settled().catch(() => {});
  }

  /** Looks again once all that happens now has happened. */
  #wake(): void {
    if (this.#store.failure !== undefined) this.#failed.notify();
    if (this.#isLookDue) return;
    this.#isLookDue = true;
    queueMicrotask(() => {
      this.#isLookDue = false;
      this.#sendWhatIsDue();
    });
  }

  #sendWhatIsDue({ isWriteOverdue } = { isWriteOverdue: false }): void {
    if (!this.#isRunning || this.#isSending) return;
    const statusIntervalMs = this.#options.statusIntervalMs();
    const nowMs = this.#clock.monotonicMs();
    const positions = this.#positions();
    const intervalMs = this.isBlocked ? BLOCKED_REPORT_INTERVAL_MS : statusIntervalMs;
    const times = { nowMs, lastReportMs: this.#reportedMs, intervalMs };
    if (this.#isReplyWanted) {
      this.#sendStatus(positions, { replyRequested: false });
    } else if (isReportDue(this.#reported, positions, times)) {
      const { syncMs } = this.#store.diskTimes;
      if (isWriteHeld(this.#reported, positions, { syncMs, isOverdue: isWriteOverdue })) {
        this.#writeAlone ??= this.#clock.setTimer(WRITE_HELD_MS_MAX, () => {
          this.#writeAlone = undefined;
          this.#sendWhatIsDue({ isWriteOverdue: true });
        });
      } else {
        this.#sendStatus(positions, { replyRequested: false });
      }
    }
    this.#sendFeedbackIfDue({
      nowMs,
      lastReportMs: this.#feedbackMs,
      intervalMs: statusIntervalMs,
    });
  }

  /** Looks at the downstreams only when one of them has changed, or once an interval. */
  #sendFeedbackIfDue(times: ReportTimes): void {
    const { nowMs } = times;
    const isIntervalOver = isFeedbackLookDue({ ...times, lastReportMs: this.#feedbackLookMs });
    if (!isIntervalOver && !this.#hasNewFeedback) return;
    this.#hasNewFeedback = false;
    if (isIntervalOver) this.#feedbackLookMs = nowMs;
    const feedback = this.#options.feedback();
    if (!isFeedbackDue(this.#reportedFeedback, feedback, times)) return;
    this.#reportedFeedback = feedback;
    this.#feedbackMs = nowMs;
    this.#send(encodeHotStandbyFeedback({ ...feedback, sentAt: this.#clock.timestampUs() }));
  }

  #positions(): ReportedPositions {
    const { written, flushed } = this.#store;
    // An attached server may replay what is written here before it is durable.
    return { write: written, flush: flushed, apply: minLsn(this.#options.apply(), flushed) };
  }

  #sendStatus(positions: ReportedPositions, { replyRequested }: { replyRequested: boolean }): void {
    this.#isReplyWanted = false;
    this.#reported = positions;
    this.#reportedMs = this.#clock.monotonicMs();
    const sentAt = this.#clock.timestampUs();
    this.#send(encodeStatusUpdate({ ...positions, sentAt, replyRequested }));
  }

  #send(message: Buffer): void {
    if (this.#connection.offer(message) || this.#isSending) return;
    this.#isSending = true;
    const isTaken = (): void => {
      this.#isSending = false;
      this.#wake();
    };
    // A connection that breaks is noticed by who reads from it.
    this.#connection.settled().then(isTaken, () => {});
  }
}
