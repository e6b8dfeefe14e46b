/**
 * The pauses by which a stream keeps to `max_rate`: bytes are left with the operating system, and
 * TCP's flow control tells any upstream. It lives as long as a stream.
 *
 * An upstream that shuts down sends all it has first, and would wait for a link that is far behind
 * for as long as that takes, without a word of it here. So while the link is held back it is asked
 * now and then whether it still lets anybody in.
 */
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { type RateBucket, drawn, pauseMs, refilled } from './rate-limit.ts';

/** No longer at once, so that another rate is in force soon. */
const PAUSE_MS_MAX = 1000;
const ASK_INTERVAL_MS = 5000;

export interface RatePauseOptions {
  /** max_rate, in bytes per second; 0 is no limit. */
  bytesPerSecond: () => number;
  /** How many bytes have come over the wire so far. */
  readBytes: () => number;
  /** Connects to the upstream anew and leaves again; rejects with what it refuses with. */
  askUpstream: (signal: AbortSignal) => Promise<void>;
  clock: Clock;
}

export class RatePause {
  readonly #options: RatePauseOptions;
  #bucket: RateBucket | undefined;
  #counted: number;
  #rate = 0;
  /** Whether the link has been held back since the upstream was last asked. */
  #hasPaused = false;

  constructor(options: RatePauseOptions) {
    this.#options = options;
    this.#counted = options.readBytes();
  }

  /** Whether there is a limit, so that `pass` is to be called after each read. */
  get isLimited(): boolean {
    return this.#options.bytesPerSecond() > 0;
  }

  /** Waits as long as what was read demands; `onPause` is called before each wait. */
  async pass(onPause: () => void, signal: AbortSignal): Promise<void> {
    for (;;) {
      const waitMs = this.#pauseMs();
      if (waitMs === 0) return;
      this.#hasPaused = true;
      onPause();
      await this.#options.clock.sleep(Math.min(waitMs, PAUSE_MS_MAX), signal);
    }
  }

  #pauseMs(): number {
    const { bytesPerSecond: rateNow, readBytes, clock } = this.#options;
    const bytesPerSecond = rateNow();
    const read = readBytes() - this.#counted;
    this.#counted += read;
    if (bytesPerSecond !== this.#rate) this.#bucket = undefined;
    this.#rate = bytesPerSecond;
    if (bytesPerSecond === 0) return 0;
    const nowMs = clock.monotonicMs();
    this.#bucket = drawn(refilled(this.#bucket, { bytesPerSecond, nowMs }), read);
    return pauseMs(this.#bucket, bytesPerSecond);
  }

  /** Asks the upstream while the link is held back; rejects once it shuts down. */
  async watch(signal: AbortSignal): Promise<never> {
    const { clock, askUpstream } = this.#options;
    for (;;) {
      await clock.sleep(ASK_INTERVAL_MS, signal);
      if (!this.#hasPaused) continue;
      this.#hasPaused = false;
      const refusal = await askUpstream(signal).then(
        () => undefined,
        (error: unknown) => asWalcadeError(error),
      );
      signal.throwIfAborted();
      if (refusal !== undefined && isShutdown(refusal)) throw upstreamShutsDown(refusal);
    }
  }
}

/** It lets nobody in any more, or nobody listens there. */
function isShutdown({ sqlstate }: WalcadeError): boolean {
  return /^(?:08|57P)/.test(sqlstate);
}

function upstreamShutsDown(refusal: WalcadeError): WalcadeError {
  return new WalcadeError(
    SQLSTATE.CANNOT_CONNECT_NOW,
    'the upstream shuts down and would wait for WAL that is held back by "max_rate"',
    { detail: `It says: ${refusal.message}.`, cause: refusal },
  );
}
