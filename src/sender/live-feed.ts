/**
 * WAL as it comes, to all downstreams that have what came before: each message is made once, and
 * its bytes are shared by all who send it.
 *
 *   follower.sent = what is served, or what the next round begins with; who is elsewhere leaves
 *
 * A follower costs a write to its socket for each message, and no promise, closure or allocation.
 * One whose socket does not take all of it at once leaves: it is for its own loop (wal-feed.ts) to
 * wait until there is room. A feed lives as long as the watermark that it listens to: until the
 * store goes on with another timeline.
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import type { Watermark } from '../base/watermark.ts';
import type { Connection } from '../protocol/connection.ts';
import { encodeWalDataFrame } from '../protocol/replication-messages.ts';
import { type Lsn, distance } from '../wal/lsn.ts';
import type { WalSource } from './wal-source.ts';

/**
 * The most WAL that is sent so. More at a time is no live stream but the rest of a catch-up, which
 * each downstream takes from the blocks in memory, uncopied, at its own pace.
 */
export const LIVE_BYTES_MAX = 64 * 1024;

export interface FollowOptions {
  /** All before this has been sent. */
  sent: Lsn;
  /** What comes after this is not for this downstream. */
  until: Lsn;
  signal: AbortSignal;
  onSent: (sent: Lsn) => void;
}

interface Follower {
  readonly connection: Connection;
  sent: Lsn;
  readonly until: Lsn;
  readonly onSent: (sent: Lsn) => void;
  readonly leave: () => void;
}

export class LiveFeed {
  readonly #source: WalSource;
  readonly #clock: Clock;
  readonly #followers = new Set<Follower>();
  /** Where the next round begins. */
  #sent: Lsn;
  #isRoundDue = false;

  constructor(source: WalSource, clock: Clock) {
    this.#source = source;
    this.#clock = clock;
    this.#sent = source.served.value;
    source.served.listen(() => this.#wake());
  }

  /**
   * Sends what comes to `connection`. Resolves when it has to go on by itself: its socket is full,
   * or too much came at once; rejects with the signal's reason.
   */
  follow(connection: Connection, options: FollowOptions): Promise<void> {
    const { sent, until, onSent, signal } = options;
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      const end = (): void => {
        this.#followers.delete(follower);
        signal.removeEventListener('abort', onAbort);
      };
      const onAbort = (): void => {
        end();
        reject(signal.reason as Error);
      };
      const leave = (): void => {
        end();
        resolve();
      };
      const follower: Follower = { connection, sent, until, onSent, leave };
      this.#followers.add(follower);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** The round comes after whoever waits for the same WAL to make it durable: that takes longer. */
  #wake(): void {
    if (this.#isRoundDue) return;
    this.#isRoundDue = true;
    queueMicrotask(() => this.#round());
  }

  #round(): void {
    this.#isRoundDue = false;
    const from = this.#sent;
    const to = this.#source.served.value;
    this.#sent = to;
    if (this.#followers.size === 0) return;
    const message = distance(from, to) <= LIVE_BYTES_MAX ? this.#message(from, to) : undefined;
    for (const follower of this.#followers) {
      // Who came while the round was due has been sent all by itself.
      if (follower.sent === to) continue;
      if (message === undefined || follower.sent !== from || to > follower.until) {
        follower.leave();
        continue;
      }
      const isTaken = follower.connection.offer(message);
      follower.sent = to;
      follower.onSent(to);
      if (!isTaken) follower.leave();
    }
  }

  /** WAL from `from` to `to` as one message; undefined if it is not all in one block in memory. */
  #message(from: Lsn, to: Lsn): Buffer | undefined {
    const chunk = this.#source.read(from, to);
    if (chunk instanceof Promise) {
      void chunk.then((loaded) => loaded.release()).catch(() => {});
      return undefined;
    }
    const { bytes } = chunk;
    try {
      if (bytes.length < distance(from, to)) return undefined;
      assert(bytes.length <= LIVE_BYTES_MAX, 'a message is no longer than was asked for');
      const header = { start: from, walEnd: to, sentAt: this.#clock.timestampUs() };
      return Buffer.concat([encodeWalDataFrame(header, bytes.length), bytes]);
    } finally {
      chunk.release();
    }
  }
}

/** The feed of what is served now: another one once the store has gone on with a new timeline. */
export class LiveFeeds {
  #current: { served: Watermark<Lsn>; feed: LiveFeed } | undefined;

  of(source: WalSource, clock: Clock): LiveFeed {
    const { served } = source;
    if (this.#current?.served !== served) {
      this.#current = { served, feed: new LiveFeed(source, clock) };
    }
    return this.#current.feed;
  }
}
