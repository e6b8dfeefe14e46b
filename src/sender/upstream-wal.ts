/**
 * WAL from before the store's beginning, passed on from the upstream over a connection of its own.
 *
 * It is proven on the way like all other WAL: what is served ends at record ends. It lives as long
 * as one downstream reads it; at most BUFFER_BYTES_MAX are read ahead. An upstream that is silent
 * while it is being read ends it, as the receiver's stream.
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { Watermark } from '../base/watermark.ts';
import { BACKEND } from '../protocol/backend-messages.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { CompressedWalReader } from '../protocol/compressed-wal.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import type { Message } from '../protocol/message-reader.ts';
import { formatStartReplication } from '../protocol/replication-command.ts';
import {
  REPLICATION_MESSAGE,
  WAL_DATA_HEADER_BYTES,
  decodeKeepalive,
  encodeStatusUpdate,
} from '../protocol/replication-messages.ts';
import { BLOCK_BYTES } from '../store/wal-block-cache.ts';
import type { WalChunk } from '../store/wal-blocks.ts';
import {
  INVALID_LSN,
  type Lsn,
  type TimelineId,
  advance,
  alignDown,
  distance,
  maxLsn,
  minLsn,
} from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import { WalWalker } from '../wal/walker.ts';
import type { WalSource } from './wal-source.ts';

const BUFFER_BYTES_MAX = 4 * 1024 * 1024;
const BLOCKED_REPLY_INTERVAL_MS = 1000;

export interface UpstreamWalOptions {
  client: ReplicationClient;
  timeline: TimelineId;
  start: Lsn;
  /** Serving ends here: where the store begins, or where the timeline ends. */
  until: Lsn;
  segmentBytes: number;
  systemIdentifier: bigint;
  clock: Clock;
  /** wal_receiver_timeout; 0 never gives up. */
  timeoutMs: () => number;
}

interface Block {
  start: Lsn;
  bytes: Buffer;
  filled: number;
}

export class UpstreamWal implements WalSource {
  readonly served: Watermark<Lsn>;
  readonly #options: UpstreamWalOptions;
  readonly #client: ReplicationClient;
  readonly #walker: WalWalker;
  readonly #consumed = new Condition();
  #blocks: Block[] = [];
  #insideWalData = false;
  #compressed: CompressedWalReader | undefined;
  #hasBegun = false;
  /** Whether something is expected of the upstream: else its silence means nothing. */
  #isReading = true;
  #lastHeardMs: number;
  #hasAskedForReply = false;

  constructor(options: UpstreamWalOptions) {
    const { client, start, segmentBytes, systemIdentifier } = options;
    this.#options = options;
    this.#client = client;
    this.#lastHeardMs = options.clock.monotonicMs();
    this.served = new Watermark(start);
    this.#walker = new WalWalker({
      segmentBytes,
      systemIdentifier,
      start: segmentStart(start, segmentBytes),
      startsAt: 'segment',
    });
  }

  /** Reads from the upstream until `until` is served; throws the upstream's refusal. */
  async run(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    const { connection } = this.#client;
    const interrupt = (): void => connection.stopReading(signal.reason as Error);
    signal.addEventListener('abort', interrupt, { once: true });
    try {
      await this.#receive(signal);
    } finally {
      this.#isReading = false;
      signal.removeEventListener('abort', interrupt);
    }
  }

  /** Watches over wal_receiver_timeout until `signal` aborts; rejects once the time is over. */
  async supervise(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options;
    for (;;) {
      const timeoutMs = this.#options.timeoutMs();
      await clock.sleep(timeoutMs > 0 ? Math.min(timeoutMs / 10, 1000) : 1000, signal);
      if (timeoutMs === 0 || !this.#isReading) continue;
      const silentMs = clock.monotonicMs() - this.#lastHeardMs;
      if (silentMs >= timeoutMs) {
        throw new WalcadeError(
          SQLSTATE.CONNECTION_FAILURE,
          'terminating WAL receiver due to timeout',
          { detail: `The upstream has sent nothing for ${Math.round(silentMs)} ms.` },
        );
      }
      if (silentMs >= timeoutMs / 2 && this.#hasBegun && !this.#hasAskedForReply) {
        this.#hasAskedForReply = true;
        // Not waited for: an upstream that takes nothing either is silent all the same.
        this.#reply({ replyRequested: true }).catch(() => {});
      }
    }
  }

  async #receive(signal: AbortSignal): Promise<void> {
    const { timeline, until } = this.#options;
    const start = this.#walker.received;
    this.#compressed = await CompressedWalReader.open(this.#client);
    const answer = await this.#client.startCopyBoth(formatStartReplication({ start, timeline }));
    this.#heard();
    if (answer.kind === 'results') throw this.#endedEarly();
    this.#hasBegun = true;
    while (this.served.value < until) {
      const messages = await this.#client.connection.read();
      this.#heard();
      for (const message of messages) await this.#take(message);
      await this.#waitForReader(signal);
    }
  }

  async #waitForReader(signal: AbortSignal): Promise<void> {
    if (this.#bufferedBytes() <= BUFFER_BYTES_MAX) return;
    this.#isReading = false;
    while (this.#bufferedBytes() > BUFFER_BYTES_MAX) {
      // The upstream's keepalives wait behind its WAL, so they are answered before they are read.
      await this.#consumed.waitAtMost(BLOCKED_REPLY_INTERVAL_MS, this.#options.clock, signal);
      await this.#reply();
    }
    this.#isReading = true;
    this.#heard();
  }

  #heard(): void {
    this.#lastHeardMs = this.#options.clock.monotonicMs();
    this.#hasAskedForReply = false;
  }

  read(start: Lsn, end: Lsn): WalChunk {
    const blockStart = alignDown(start, BLOCK_BYTES);
    this.#blocks = this.#blocks.filter((block) => block.start >= blockStart);
    this.#consumed.notify();
    const block = this.#blocks[0];
    assert(block?.start === blockStart, 'older WAL is read once, in order');
    const to = Math.min(distance(blockStart, end), BLOCK_BYTES);
    assert(to <= block.filled, 'what is served is in its block');
    return { bytes: block.bytes.subarray(distance(blockStart, start), to), release: () => {} };
  }

  async #take(message: Message): Promise<void> {
    const { type, body, offset } = message;
    if (type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(body);
    if (type === BACKEND.COPY_DONE || type === BACKEND.COMMAND_COMPLETE) {
      if (this.#walker.received < this.#options.until) throw this.#endedEarly();
      this.served.advance(this.#options.until);
    }
    if (type !== BACKEND.COPY_DATA) return;
    if (offset > 0) {
      if (this.#insideWalData) this.#append(body);
      else this.#takeCompressed(message);
      return;
    }
    this.#insideWalData = body[0] === REPLICATION_MESSAGE.WAL_DATA;
    if (this.#insideWalData) return this.#append(body.subarray(WAL_DATA_HEADER_BYTES));
    if (body[0] === REPLICATION_MESSAGE.COMPRESSED_WAL_DATA && this.#compressed) {
      return this.#takeCompressed(message);
    }
    if (decodeKeepalive(body).replyRequested) await this.#reply();
  }

  #takeCompressed(message: Message): void {
    const whole = this.#compressed?.push(message);
    if (whole !== undefined) this.#append(whole.wal);
  }

  async #reply({ replyRequested } = { replyRequested: false }): Promise<void> {
    const { received } = this.#walker;
    const sentAt = this.#options.clock.timestampUs();
    // Flush 0/0: this connection keeps nothing durably and takes part in no synchronous commit.
    const positions = { write: received, flush: INVALID_LSN, apply: INVALID_LSN };
    const update = encodeStatusUpdate({ ...positions, sentAt, replyRequested });
    await this.#client.connection.send(update);
  }

  #append(bytes: Uint8Array): void {
    let position = this.#walker.received;
    this.#walker.push(bytes);
    let done = this.#bytesBeforeStart(position, bytes.length);
    position = advance(position, done);
    while (done < bytes.length) {
      const block = this.#block(position);
      const length = Math.min(bytes.length - done, BLOCK_BYTES - block.filled);
      block.bytes.set(bytes.subarray(done, done + length), block.filled);
      block.filled += length;
      done += length;
      position = advance(position, length);
    }
    // Past `until` only the record that began before it has to be proven.
    const proven = minLsn(this.#walker.proven, this.#options.until);
    this.served.advance(maxLsn(this.served.value, proven));
  }

  /** A segment is walked from its beginning; what lies before the start is kept for nobody. */
  #bytesBeforeStart(position: Lsn, length: number): number {
    const firstBlock = alignDown(this.#options.start, BLOCK_BYTES);
    return position >= firstBlock ? 0 : Math.min(length, distance(position, firstBlock));
  }

  #block(position: Lsn): Block {
    const start = alignDown(position, BLOCK_BYTES);
    const last = this.#blocks.at(-1);
    if (last?.start === start) return last;
    const block = { start, bytes: Buffer.allocUnsafeSlow(BLOCK_BYTES), filled: 0 };
    this.#blocks.push(block);
    return block;
  }

  #bufferedBytes(): number {
    // What lies before the served position may be read at once; an open record must be let grow.
    const first = this.#blocks[0];
    return first === undefined ? 0 : Math.max(0, Number(this.served.value - first.start));
  }

  #endedEarly(): WalcadeError {
    return new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `upstream has no more WAL on timeline ${this.#options.timeline}`,
    );
  }
}
