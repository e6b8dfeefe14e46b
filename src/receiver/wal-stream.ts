/**
 * One stream of WAL from the upstream into the store: from CopyBoth to its end.
 *
 * Three tasks that end together: intake takes messages and appends WAL; reports tell the upstream
 * what is written and durable, at once when it moves; supervision ends the stream when the upstream
 * is silent or the disk does not answer. A slow disk stops intake at BACKLOG_BYTES_MAX, never
 * the reports: keepalives wait behind the WAL, so while intake is stopped a report is sent each
 * second unasked.
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { endTogether } from '../base/task-group.ts';
import { BACKEND, COPY_DONE, decodeParameterStatus } from '../protocol/backend-messages.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { CompressedWalReader } from '../protocol/compressed-wal.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import type { Message } from '../protocol/message-reader.ts';
import {
  REPLICATION_MESSAGE,
  WAL_DATA_HEADER_BYTES,
  type WalDataHeader,
  decodeKeepalive,
  decodeWalDataHeader,
  encodeHotStandbyFeedback,
  encodeStatusUpdate,
} from '../protocol/replication-messages.ts';
import type { WalStore } from '../store/wal-store.ts';
import { type Lsn, distance, formatLsn, minLsn } from '../wal/lsn.ts';
import type { RatePause } from './rate-pause.ts';
import { type StreamEnd, parseTimelineEnd } from './stream-end.ts';
import type { StoredOverlap } from './stored-overlap.ts';
import {
  type Feedback,
  type ReportTimes,
  type ReportedPositions,
  isFeedbackDue,
  isFeedbackLookDue,
  isReportDue,
} from './status-report.ts';

const BACKLOG_BYTES_MAX = 8 * 1024 * 1024;
const BLOCKED_REPORT_INTERVAL_MS = 1000;
const DISK_TIMEOUT_MS = 30_000;
const DISK_TIMEOUT_MS_MIN = 10_000;

export interface StreamSettings {
  /** wal_receiver_timeout; 0 never gives up. */
  timeoutMs: number;
  /** wal_receiver_status_interval. */
  statusIntervalMs: number;
}

export interface WalStreamOptions {
  client: ReplicationClient;
  store: WalStore;
  /** What the stream begins with and the store has already. */
  overlap?: StoredOverlap | undefined;
  /** Reads compressed WAL, if the upstream has agreed to send any. */
  compressed?: CompressedWalReader | undefined;
  /** Holds intake to max_rate. */
  rate: RatePause;
  /** Told of each piece of WAL, by its length. */
  onWal: (bytes: number) => void;
  clock: Clock;
  settings: () => StreamSettings;
  /** What the attached server has replayed: 0/0 for a relay, which replays nothing. */
  apply: () => Lsn;
  /** Notified when `apply` gives something else. */
  applyChanged: Condition;
  /** What everything below this node asks to be kept. */
  feedback: () => Feedback;
  /** Notified when `feedback` may give something else. */
  feedbackChanged: Condition;
  /** Told of each setting that the upstream reports as changed; what it throws ends the stream. */
  onParameter: (parameter: { name: string; value: string }) => void;
  /** Told of each message's walEnd and time of sending. */
  onUpstreamPosition: (walEnd: Lsn, sentAtUs: bigint) => void;
}

export class UpstreamStream {
  readonly #client: ReplicationClient;
  readonly #store: WalStore;
  readonly #clock: Clock;
  readonly #options: WalStreamOptions;
  readonly #wanted = new Condition();
  #lastReceivedMs: number;
  #replyWanted = false;
  #askedForReply = false;
  #isBlocked = false;
  /** The rest of a CopyData message is WAL. */
  #insideWalData = false;
  #reported: ReportedPositions | undefined;
  #reportedFeedback: Feedback | undefined;
  #reportedMs = 0;
  #feedbackMs = 0;
  #feedbackLookMs = Number.NEGATIVE_INFINITY;
  #hasNewFeedback = true;
  /** Something has changed since the reports last looked. */
  #hasNews = false;
  #end: StreamEnd | undefined;

  constructor(options: WalStreamOptions) {
    this.#options = options;
    this.#client = options.client;
    this.#store = options.store;
    this.#clock = options.clock;
    this.#lastReceivedMs = options.clock.monotonicMs();
  }

  /** Streams until the upstream ends it; rejects if it breaks, with `signal.reason` on abort. */
  async run(signal: AbortSignal): Promise<StreamEnd> {
    try {
      await endTogether(signal, [
        (group) => this.#intake(group),
        (group) => this.#report(group),
        (group) => this.#supervise(group),
        (group) => this.#options.rate.watch(group),
      ]);
    } finally {
      await this.#reportLast();
    }
    assert(this.#end !== undefined, 'a stream that ends in peace says how');
    return this.#end;
  }

  async #intake(signal: AbortSignal): Promise<void> {
    const { connection } = this.#client;
    const interrupt = (): void => connection.stopReading(signal.reason as Error);
    signal.addEventListener('abort', interrupt, { once: true });
    try {
      await this.#takeAll(signal);
    } finally {
      signal.removeEventListener('abort', interrupt);
    }
  }

  async #takeAll(signal: AbortSignal): Promise<void> {
    const { connection } = this.#client;
    while (this.#end === undefined) {
      const messages = await connection.read();
      this.#lastReceivedMs = this.#clock.monotonicMs();
      this.#askedForReply = false;
      for (const [index, message] of messages.entries()) {
        this.#take(message);
        if (message.type !== BACKEND.COPY_DONE) continue;
        connection.unread(messages.slice(index + 1));
        this.#end = await this.#finishTimeline();
        return;
      }
      await this.#waitForDisk(signal);
      await this.#keepToRate(signal);
    }
  }

  #take(message: Message): void {
    const { type, body, offset } = message;
    if (type === BACKEND.COPY_DATA) {
      if (offset === 0) this.#takeReplicationMessage(message);
      else if (this.#insideWalData) this.#takeWal(body);
      else this.#takeCompressed(message);
    } else if (type === BACKEND.PARAMETER_STATUS) {
      this.#options.onParameter(decodeParameterStatus(body));
    } else if (type === BACKEND.COMMAND_COMPLETE) {
      this.#end = { kind: 'upstream-shut-down' };
    } else if (type === BACKEND.ERROR_RESPONSE) {
      throw errorFromResponse(body);
    }
  }

  #takeReplicationMessage(message: Message): void {
    const { body } = message;
    const kind = body[0];
    this.#insideWalData = kind === REPLICATION_MESSAGE.WAL_DATA;
    if (this.#insideWalData) {
      this.#takeHeader(decodeWalDataHeader(body));
      this.#takeWal(body.subarray(WAL_DATA_HEADER_BYTES));
    } else if (kind === REPLICATION_MESSAGE.COMPRESSED_WAL_DATA && this.#options.compressed) {
      this.#takeCompressed(message);
    } else if (kind === REPLICATION_MESSAGE.KEEPALIVE) {
      const { walEnd, sentAt, replyRequested } = decodeKeepalive(body);
      this.#options.onUpstreamPosition(walEnd, sentAt);
      if (!replyRequested) return;
      this.#replyWanted = true;
      this.#wake();
    } else {
      throw new WalcadeError(
        SQLSTATE.PROTOCOL_VIOLATION,
        `invalid replication message type ${kind} from upstream`,
      );
    }
  }

  /** Takes a compressed message, or a piece of one, which is nothing before it is whole. */
  #takeCompressed(message: Message): void {
    const whole = this.#options.compressed?.push(message);
    if (whole === undefined) return;
    this.#takeHeader(whole);
    this.#takeWal(whole.wal);
  }

  #takeHeader({ start, walEnd, sentAt }: WalDataHeader): void {
    if (start !== this.#expected) throw this.#notContiguous(start);
    this.#options.onUpstreamPosition(walEnd, sentAt);
  }

  /** Where the next WAL has to begin. */
  get #expected(): Lsn {
    return this.#options.overlap?.next ?? this.#store.received;
  }

  #takeWal(wal: Buffer): void {
    const { overlap } = this.#options;
    this.#options.onWal(wal.length);
    if (overlap?.next === undefined) return this.#store.append(wal);
    const rest = overlap.pass(wal);
    if (rest.length > 0) this.#store.append(rest);
  }

  #notContiguous(start: Lsn): WalcadeError {
    return new WalcadeError(
      SQLSTATE.PROTOCOL_VIOLATION,
      `got WAL data at ${formatLsn(start)}, expected ${formatLsn(this.#expected)}`,
    );
  }

  /** Answers the upstream's CopyDone and reads which timeline comes next. */
  async #finishTimeline(): Promise<StreamEnd> {
    await this.#client.connection.send(COPY_DONE);
    return parseTimelineEnd(this.#store.timeline, await this.#client.results());
  }

  async #waitForDisk(signal: AbortSignal): Promise<void> {
    const store = this.#store;
    const backlog = (): number => distance(store.written, store.received);
    if (backlog() <= BACKLOG_BYTES_MAX) return;
    this.#isBlocked = true;
    this.#wake();
    while (backlog() > BACKLOG_BYTES_MAX / 2) {
      if (store.failure !== undefined) throw store.failure;
      await store.progress.wait(signal);
    }
    this.#isBlocked = false;
    this.#lastReceivedMs = this.#clock.monotonicMs();
  }

  /** Reads no more than max_rate allows; reports go on, as when the disk is slow. */
  async #keepToRate(signal: AbortSignal): Promise<void> {
    await this.#options.rate.pass(() => {
      this.#isBlocked = true;
      this.#wake();
    }, signal);
    if (!this.#isBlocked) return;
    this.#isBlocked = false;
    this.#lastReceivedMs = this.#clock.monotonicMs();
  }

  async #report(signal: AbortSignal): Promise<void> {
    const stopListening = this.#store.progress.listen(() => this.#wake());
    const stopListeningToReplay = this.#options.applyChanged.listen(() => this.#wake());
    const stopListeningBelow = this.#options.feedbackChanged.listen(() => {
      this.#hasNewFeedback = true;
      this.#wake();
    });
    try {
      for (;;) {
        if (this.#store.failure !== undefined) throw this.#store.failure;
        this.#hasNews = false;
        await this.#sendWhatIsDue();
        if (this.#hasNews) continue;
        await this.#wanted.waitAtMost(this.#untilNextReportMs(), this.#clock, signal);
      }
    } finally {
      stopListening();
      stopListeningToReplay();
      stopListeningBelow();
    }
  }

  /** Lets the reports look again; also what happens while one is being sent is not missed. */
  #wake(): void {
    this.#hasNews = true;
    this.#wanted.notify();
  }

  #untilNextReportMs(): number {
    if (this.#isBlocked) return BLOCKED_REPORT_INTERVAL_MS;
    const { statusIntervalMs } = this.#options.settings();
    return Math.max(statusIntervalMs || BLOCKED_REPORT_INTERVAL_MS, 1);
  }

  async #sendWhatIsDue(): Promise<void> {
    const { statusIntervalMs } = this.#options.settings();
    const nowMs = this.#clock.monotonicMs();
    const positions = this.#positions();
    const intervalMs = this.#isBlocked ? BLOCKED_REPORT_INTERVAL_MS : statusIntervalMs;
    const times = { nowMs, lastReportMs: this.#reportedMs, intervalMs };
    if (this.#replyWanted || isReportDue(this.#reported, positions, times)) {
      this.#replyWanted = false;
      await this.#sendStatus(positions, { replyRequested: false });
    }
    await this.#sendFeedbackIfDue({
      nowMs,
      lastReportMs: this.#feedbackMs,
      intervalMs: statusIntervalMs,
    });
  }

  /** Looks at the downstreams only when one of them has changed, or once an interval. */
  async #sendFeedbackIfDue(times: ReportTimes): Promise<void> {
    const { nowMs } = times;
    const isIntervalOver = isFeedbackLookDue({ ...times, lastReportMs: this.#feedbackLookMs });
    if (!isIntervalOver && !this.#hasNewFeedback) return;
    this.#hasNewFeedback = false;
    if (isIntervalOver) this.#feedbackLookMs = nowMs;
    const feedback = this.#options.feedback();
    if (isFeedbackDue(this.#reportedFeedback, feedback, times)) {
      this.#reportedFeedback = feedback;
      this.#feedbackMs = nowMs;
      const sentAt = this.#clock.timestampUs();
      await this.#client.connection.send(encodeHotStandbyFeedback({ ...feedback, sentAt }));
    }
  }

  #positions(): ReportedPositions {
    const { written, flushed } = this.#store;
    // An attached server may replay what is written here before it is durable.
    return { write: written, flush: flushed, apply: minLsn(this.#options.apply(), flushed) };
  }

  async #sendStatus(
    positions: ReportedPositions,
    { replyRequested }: { replyRequested: boolean },
  ): Promise<void> {
    this.#reported = positions;
    this.#reportedMs = this.#clock.monotonicMs();
    const sentAt = this.#clock.timestampUs();
    const update = encodeStatusUpdate({ ...positions, sentAt, replyRequested });
    await this.#client.connection.send(update);
  }

  /** Ends the stream when the upstream is silent for too long, or the disk does not answer. */
  async #supervise(signal: AbortSignal): Promise<void> {
    for (;;) {
      const { timeoutMs } = this.#options.settings();
      await this.#clock.sleep(timeoutMs > 0 ? Math.min(timeoutMs / 10, 1000) : 1000, signal);
      this.#checkDisk(timeoutMs);
      if (timeoutMs === 0 || this.#isBlocked) continue;
      const silentMs = this.#clock.monotonicMs() - this.#lastReceivedMs;
      if (silentMs >= timeoutMs) {
        throw new WalcadeError(
          SQLSTATE.CONNECTION_FAILURE,
          'terminating WAL receiver due to timeout',
          { detail: `The upstream has sent nothing for ${Math.round(silentMs)} ms.` },
        );
      }
      if (silentMs >= timeoutMs / 2 && !this.#askedForReply) {
        this.#askedForReply = true;
        await this.#sendStatus(this.#positions(), { replyRequested: true });
      }
    }
  }

  /** A receiver that stays and answers while its disk hangs would block the primary's shutdown. */
  #checkDisk(timeoutMs: number): void {
    const { busyMs } = this.#store;
    if (busyMs < diskTimeoutMs(timeoutMs)) return;
    throw new WalcadeError(
      SQLSTATE.IO_ERROR,
      `disk has not answered for ${Math.round(busyMs)} ms`,
      { detail: 'The upstream connection is closed until it does.' },
    );
  }

  /** What became durable while the stream ended is told at last: the upstream may wait for it. */
  async #reportLast(): Promise<void> {
    if (this.#client.connection.closed.aborted || this.#end?.kind === 'timeline-ended') return;
    await this.#sendStatus(this.#positions(), { replyRequested: false }).catch(() => {});
  }
}

/**
 * How long a write or sync may take under `timeoutMs` of wal_receiver_timeout: half. A low one
 * is raised, as a disk under load is slow, and where the network has no limit the disk has one.
 */
function diskTimeoutMs(timeoutMs: number): number {
  return timeoutMs === 0 ? DISK_TIMEOUT_MS : Math.max(timeoutMs / 2, DISK_TIMEOUT_MS_MIN);
}
