/**
 * A connection that speaks protocol messages, on either side, over any Duplex stream.
 *
 * It lives until `close`, or until the stream ends. Reading is bounded: the stream is paused
 * while READ_AHEAD_BYTES wait to be read. Writing is bounded by its callers: `send` resolves
 * when the operating system has taken the bytes, so awaiting it is the flow control.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { type Message, type MessageLimits, MessageReader } from './message-reader.ts';

const READ_AHEAD_BYTES = 1024 * 1024;
const NOTHING = new Uint8Array(0);

/** The other side went away, or the network between. */
export class ConnectionLost extends WalcadeError {}

/** What a socket knows of its traffic. */
interface StreamCounters {
  readonly bytesRead: number;
  readonly bytesWritten: number;
}

export interface ConnectionOptions {
  limits: MessageLimits;
  /** What is said when the stream ends: the server's words differ from the client's. */
  lostMessage: string;
  /** Bytes that were read from the stream before it was handed over. */
  readAhead?: Buffer;
  /**
   * The stream reads into one buffer: what `read` and `next` give is valid until they are called
   * with nothing left to give, and nothing is read ahead.
   */
  inPlace?: boolean;
}

interface Consumer {
  take(messages: readonly Message[]): boolean;
  resolve(): void;
  reject(error: unknown): void;
}

export class Connection {
  readonly #socket: Duplex;
  readonly #reader: MessageReader;
  readonly #lostMessage: string;
  readonly #readAheadBytes: number;
  readonly #closed = new AbortController();
  #queue: Message[] = [];
  #queuedBytes = 0;
  #failure: Error | undefined;
  #readingEnds: Error | undefined;
  readonly #pendingSends = new Set<() => void>();
  #waiting: { resolve(): void; reject(error: Error): void } | undefined;
  #consumer: Consumer | undefined;

  constructor(socket: Duplex, options: ConnectionOptions) {
    const { limits, lostMessage, readAhead, inPlace = false } = options;
    this.#readAheadBytes = inPlace ? 0 : READ_AHEAD_BYTES;
    this.#socket = socket;
    this.#reader = new MessageReader(limits);
    this.#lostMessage = lostMessage;
    if (readAhead !== undefined && readAhead.length > 0) this.#take(readAhead);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('end', () => this.#fail(this.#lost()));
    socket.on('error', (error) => this.#fail(this.#lost(error)));
    socket.on('close', () => this.#fail(this.#lost()));
    socket.resume();
    if (socket.destroyed) this.#fail(this.#lost());
  }

  /** Aborted, with the reason, once the connection cannot be used any more. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** How many bytes have come over the wire, and gone: of a stream that counts them, as sockets. */
  get traffic(): { readBytes: number; writtenBytes: number } {
    const { bytesRead = 0, bytesWritten = 0 } = this.#socket as Partial<StreamCounters>;
    return { readBytes: bytesRead, writtenBytes: bytesWritten };
  }

  /**
   * All messages that have arrived, in order, at least one; waits for one if there is none.
   * Rejects with ConnectionLost at the end of the stream, or with what its bytes broke (08P01).
   * One caller at a time.
   */
  async read(): Promise<Message[]> {
    await this.#arrival();
    const messages = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#resumeReading();
    return messages;
  }

  /**
   * The next message alone; what `read` is for, one at a time. Once `signal` aborts it rejects with
   * the signal's reason and leaves what has arrived to the next caller.
   */
  async next(signal?: AbortSignal): Promise<Message> {
    await this.#arrival(signal);
    signal?.throwIfAborted();
    const message = this.#queue.shift() as Message;
    this.#queuedBytes -= queuedBytesOf(message);
    this.#resumeReading();
    return message;
  }

  /**
   * Hands messages to `take` as they arrive, in order, without a turn between: they are valid
   * during the call. Resolves when `take` says that it wants no more for now, rejects as `read`
   * does and with what `take` throws; nothing is read then until somebody reads or consumes again.
   */
  consume(take: (messages: readonly Message[]) => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      const reason = this.#readingEnds ?? (this.#queue.length === 0 ? this.#failure : undefined);
      if (reason !== undefined) return reject(reason);
      this.#consumer = { take, resolve, reject };
      if (this.#queue.length > 0) this.#giveToConsumer(this.#consumer);
      else this.#resumeReading();
    });
  }

  /** Gives back messages that were taken and nobody has dealt with. */
  unread(messages: readonly Message[]): void {
    this.#queue = [...messages, ...this.#queue];
    for (const message of messages) this.#queuedBytes += queuedBytesOf(message);
  }

  /** Makes the pending `read` and all later ones reject with `reason`; sending goes on. */
  stopReading(reason: Error): void {
    this.#readingEnds = reason;
    this.#rejectReaders(reason);
  }

  /** Writes `bytes`; resolves once the operating system has them, rejects if it never will. */
  send(bytes: Uint8Array | readonly Uint8Array[]): Promise<void> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      // A stream that is destroyed may never call back for what it was writing: #fail does then.
      const abandon = (): void => reject(this.#failure);
      this.#pendingSends.add(abandon);
      const taken = (error: Error | null | undefined): void => {
        this.#pendingSends.delete(abandon);
        if (error) reject(this.#failure ?? this.#lost(error));
        else resolve();
      };
      if (bytes instanceof Uint8Array) {
        this.#socket.write(bytes, taken);
        return;
      }
      this.#socket.cork();
      const last = bytes.length - 1;
      for (let i = 0; i < last; i++) this.#socket.write(bytes[i]);
      this.#socket.write(bytes[last], taken);
      this.#socket.uncork();
    });
  }

  /**
   * Writes `bytes`; whether the operating system has taken them, and all before, at once. If not,
   * `settled` is for the caller to wait for before it writes more.
   */
  offer(bytes: Uint8Array): boolean {
    if (this.#failure !== undefined) return false;
    this.#socket.write(bytes);
    return this.#socket.writableLength === 0;
  }

  /** Resolves once the operating system has all that was offered; rejects if it never will. */
  settled(): Promise<void> {
    return this.send(NOTHING);
  }

  /**
   * Sends what was written, then closes; resolves when the stream is closed. A peer that does not
   * take the rest within `lingerMs` loses it.
   */
  async end({ clock, lingerMs }: { clock: Clock; lingerMs: number }): Promise<void> {
    if (this.#socket.destroyed) return;
    const timer = clock.setTimer(lingerMs, () => this.#socket.destroy());
    await new Promise<void>((resolve) => {
      this.#socket.once('close', () => resolve());
      this.#socket.end(() => this.#socket.destroy());
    });
    timer.cancel();
  }

  /** Closes at once; what was not sent is dropped. */
  close(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    if (this.#failure !== undefined) return;
    const before = this.#queue.length;
    try {
      this.#reader.push(chunk, this.#queue);
    } catch (error) {
      this.#fail(error as Error);
      return;
    }
    if (this.#consumer !== undefined) {
      if (this.#queue.length > 0) this.#giveToConsumer(this.#consumer);
      return;
    }
    for (let i = before; i < this.#queue.length; i++) {
      this.#queuedBytes += queuedBytesOf(this.#queue[i] as Message);
    }
    if (this.#queuedBytes > this.#readAheadBytes) this.#socket.pause();
    if (this.#queue.length === before) return;
    const waiting = this.#waiting;
    this.#waiting = undefined;
    waiting?.resolve();
  }

  #giveToConsumer(consumer: Consumer): void {
    const messages = this.#queue;
    this.#queue = [];
    this.#queuedBytes = 0;
    try {
      if (consumer.take(messages)) return this.#resumeReading();
      consumer.resolve();
    } catch (error) {
      consumer.reject(error);
    }
    this.#consumer = undefined;
    this.#socket.pause();
  }

  #rejectReaders(reason: Error): void {
    this.#waiting?.reject(reason);
    this.#consumer?.reject(reason);
    this.#waiting = undefined;
    this.#consumer = undefined;
  }

  /** Resolves once there is a message to read. */
  #arrival(signal?: AbortSignal): Promise<void> {
    if (signal?.aborted) return Promise.reject(signal.reason as Error);
    if (this.#readingEnds !== undefined) return Promise.reject(this.#readingEnds);
    if (this.#queue.length > 0) return Promise.resolve();
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    return new Promise((resolve, reject) => {
      const callOff = (): void => {
        this.#waiting = undefined;
        reject(signal?.reason as Error);
      };
      signal?.addEventListener('abort', callOff, { once: true });
      const settle = (): void => signal?.removeEventListener('abort', callOff);
      this.#waiting = {
        resolve: () => {
          settle();
          resolve();
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      this.#resumeReading();
    });
  }

  /** Reads on if there is room; in place, only when what was read before is done with. */
  #resumeReading(): void {
    const isAwaited = this.#waiting !== undefined || this.#consumer !== undefined;
    const isWanted = this.#readAheadBytes > 0 || isAwaited;
    if (!isWanted || this.#queuedBytes > this.#readAheadBytes) return;
    if (this.#socket.isPaused()) this.#socket.resume();
  }

  #lost(cause?: Error): Error {
    const detail = cause === undefined ? undefined : `${describeSystemError(cause)}.`;
    return new ConnectionLost(SQLSTATE.CONNECTION_FAILURE, this.#lostMessage, {
      ...(detail === undefined ? {} : { detail }),
      cause,
    });
  }

  #fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#rejectReaders(error);
    for (const abandon of this.#pendingSends) abandon();
    this.#pendingSends.clear();
    this.#closed.abort(error);
  }
}

/** What a message that waits to be read counts for, its own object included. */
function queuedBytesOf({ body }: Message): number {
  return body.length + MESSAGE_OVERHEAD_BYTES;
}

const MESSAGE_OVERHEAD_BYTES = 200;
