/**
 * The one door to time. Everything that reads the clock or waits takes a Clock, so that a
 * simulator can replace it; the architecture test keeps Date and timers out of other files.
 */

export interface Clock {
  /** Wall-clock time, microseconds since 2000-01-01 00:00 UTC (PostgreSQL's TimestampTz). */
  timestampUs(): bigint;
  /** Wall-clock time, milliseconds since 1970-01-01 00:00 UTC. */
  nowMs(): number;
  /** Milliseconds from an arbitrary start; never goes back. For durations. */
  monotonicMs(): number;
  /** Calls `action` once, after `delayMs`. The result cancels it. */
  setTimer(delayMs: number, action: () => void): Timer;
  /** Resolves after `delayMs`; rejects with `signal.reason` as soon as `signal` aborts. */
  sleep(delayMs: number, signal: AbortSignal): Promise<void>;
}

export interface Timer {
  cancel(): void;
}

const POSTGRES_EPOCH_MS = 946_684_800_000;

export const systemClock: Clock = {
  timestampUs: () => {
    const us = (performance.timeOrigin + performance.now() - POSTGRES_EPOCH_MS) * 1000;
    return BigInt(Math.round(us));
  },
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  setTimer: (delayMs, action) => {
    const timer = setTimeout(action, delayMs);
    return { cancel: () => clearTimeout(timer) };
  },
  sleep: (delayMs, signal) =>
    new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      }, delayMs);
      const onAbort = (): void => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      signal.addEventListener('abort', onAbort, { once: true });
    }),
};
