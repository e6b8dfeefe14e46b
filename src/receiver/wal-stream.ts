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
} from '../protocol/replication-messages.ts';
import type { WalStore } from '../store/wal-store.ts';
import { type Lsn, distance, formatLsn } from '../wal/lsn.ts';
import type { RatePause } from './rate-pause.ts';
import { type StreamEnd, parseTimelineEnd } from './stream-end.ts';
import type { StoredOverlap } from './stored-overlap.ts';
import { UpstreamReports, type UpstreamReportsOptions } from './upstream-reports.ts';

const BACKLOG_BYTES_MAX = 8 * 1024 * 1024;
const DISK_TIMEOUT_MS = 30_000;
const DISK_TIMEOUT_MS_MIN = 10_000;

export interface StreamSettings {
  /** wal_receiver_timeout; 0 never gives up. */
  timeoutMs: number;
  /** wal_receiver_status_interval. */
  statusIntervalMs: number;
}

export interface WalStreamOptions
  extends Omit<UpstreamReportsOptions, 'connection' | 'statusIntervalMs'> {
  client: ReplicationClient;
  /** What the stream begins with and the store has already. */
  overlap?: StoredOverlap | undefined;
  /** Reads compressed WAL, if the upstream has agreed to send any. */
  compressed?: CompressedWalReader | undefined;
  /** Holds intake to max_rate. */
  rate: RatePause;
  /** Told of each piece of WAL, by its length. */
  onWal: (bytes: number) => void;
  settings: () => StreamSettings;
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
  readonly #reports: UpstreamReports;
  #lastReceivedMs: number;
  #askedForReply = false;
  /** The rest of a CopyData message is WAL. */
  #insideWalData = false;
  #isCopyDone = false;
  #end: StreamEnd | undefined;

  constructor(options: WalStreamOptions) {
    const { client, clock, settings } = options;
    this.#options = options;
    this.#client = client;
    this.#store = options.store;
    this.#clock = clock;
    this.#reports = new UpstreamReports({
      ...options,
      connection: client.connection,
      statusIntervalMs: () => settings().statusIntervalMs,
    });
    this.#lastReceivedMs = clock.monotonicMs();
  }

  /** Streams until the upstream ends it; rejects if it breaks, with `signal.reason` on abort. */
  async run(signal: AbortSignal): Promise<StreamEnd> {
    try {
      await endTogether(signal, [
        (group) => this.#intake(group),
        (group) => this.#reports.run(group),
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
    while (this.#end === undefined) {
      await this.#client.connection.consume((messages) => this.#takeArrived(messages));
      if (this.#isCopyDone) {
        this.#end = await this.#finishTimeline();
        return;
      }
      await this.#waitForDisk(signal);
      await this.#keepToRate(signal);
    }
  }

  /** Whether the stream goes on at once with what comes next. */
  #takeArrived(messages: readonly Message[]): boolean {
    this.#lastReceivedMs = this.#clock.monotonicMs();
    this.#askedForReply = false;
    for (const [index, message] of messages.entries()) {
      this.#take(message);
      if (message.type !== BACKEND.COPY_DONE) continue;
      this.#isCopyDone = true;
      this.#client.connection.unread(messages.slice(index + 1));
      return false;
    }
    const isHeldBack = this.#backlogBytes > BACKLOG_BYTES_MAX || this.#options.rate.isLimited;
    return this.#end === undefined && !isHeldBack;
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
      if (replyRequested) this.#reports.replySoon();
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

  /** What was received and is not written yet. */
  get #backlogBytes(): number {
    return distance(this.#store.written, this.#store.received);
  }

  async #waitForDisk(signal: AbortSignal): Promise<void> {
    const store = this.#store;
    if (this.#backlogBytes <= BACKLOG_BYTES_MAX) return;
    this.#reports.isBlocked = true;
    while (this.#backlogBytes > BACKLOG_BYTES_MAX / 2) {
      if (store.failure !== undefined) throw store.failure;
      await store.progress.wait(signal);
    }
    this.#goOnReading();
  }

  /** Reads no more than max_rate allows; reports go on, as when the disk is slow. */
  async #keepToRate(signal: AbortSignal): Promise<void> {
    const onPause = (): void => {
      this.#reports.isBlocked = true;
    };
    await this.#options.rate.pass(onPause, signal);
    if (this.#reports.isBlocked) this.#goOnReading();
  }

  #goOnReading(): void {
    this.#reports.isBlocked = false;
    this.#lastReceivedMs = this.#clock.monotonicMs();
  }

  /** Ends the stream when the upstream is silent for too long, or the disk does not answer. */
  async #supervise(signal: AbortSignal): Promise<void> {
    for (;;) {
      const { timeoutMs } = this.#options.settings();
      await this.#clock.sleep(timeoutMs > 0 ? Math.min(timeoutMs / 10, 1000) : 1000, signal);
      this.#checkDisk(timeoutMs);
      if (timeoutMs === 0 || this.#reports.isBlocked) continue;
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
        this.#reports.askForReply();
      }
    }
  }

  /** A receiver that stays and answers while its disk hangs would block the primary's shutdown. */
  #checkDisk(timeoutMs: number): void {
    const { busyMs } = this.#store.diskTimes;
    if (busyMs < diskTimeoutMs(timeoutMs)) return;
    throw new WalcadeError(
      SQLSTATE.IO_ERROR,
      `disk has not answered for ${Math.round(busyMs)} ms`,
      { detail: 'The upstream connection is closed until it does.' },
    );
  }

  /** What became durable while the stream ended is told at last: the upstream may wait for it. */
  async #reportLast(): Promise<void> {
    const hasEnded = this.#client.connection.closed.aborted || this.#end?.kind === 'timeline-ended';
    if (!hasEnded) await this.#reports.sendLast();
  }
}

/**
 * How long a write or sync may take under `timeoutMs` of wal_receiver_timeout: half. A low one
 * is raised, as a disk under load is slow, and where the network has no limit the disk has one.
 */
function diskTimeoutMs(timeoutMs: number): number {
  return timeoutMs === 0 ? DISK_TIMEOUT_MS : Math.max(timeoutMs / 2, DISK_TIMEOUT_MS_MIN);
}
