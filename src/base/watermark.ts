/**
 * A position that only advances, and those who wait for it to pass theirs.
 *
 * A Watermark lives as long as what it measures; a wait ends by passing, timeout or its signal.
 */
import { assert } from './assert.ts';
import type { Clock, Timer } from './clock.ts';

export interface WaitOptions {
  timeoutMs: number;
  clock: Clock;
  signal: AbortSignal;
}

interface Waiter<T> {
  position: T;
  wake(): void;
}

export class Watermark<T extends bigint> {
  #value: T;
  readonly #waiters = new Set<Waiter<T>>();
  readonly #listeners: (() => void)[] = [];

  constructor(value: T) {
    this.#value = value;
  }

  get value(): T {
    return this.#value;
  }

  /** Moves to `value` (never back) and wakes those whose position it passed. */
  advance(value: T): void {
    assert(value >= this.#value, 'a watermark only advances');
    if (value === this.#value) return;
    this.#value = value;
    for (const waiter of this.#waiters) if (waiter.position < value) waiter.wake();
    for (const listener of this.#listeners) listener();
  }

  /** Calls `listener` at each advance, for as long as the watermark lives. */
  listen(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /**
   * Resolves to true once the value is past `position`, to false after `timeoutMs`; rejects with
   * the signal's reason when it aborts.
   */
  waitPast(position: T, { timeoutMs, clock, signal }: WaitOptions): Promise<boolean> {
    if (signal.aborted) return Promise.reject(signal.reason as Error);
    if (this.#value > position) return Promise.resolve(true);
    return new Promise((resolve, reject) => {
      let timer: Timer | undefined;
      const settle = (): void => {
        this.#waiters.delete(waiter);
        signal.removeEventListener('abort', onAbort);
        timer?.cancel();
      };
      const waiter = {
        position,
        wake: () => {
          settle();
          resolve(true);
        },
      };
      const onAbort = (): void => {
        settle();
        reject(signal.reason as Error);
      };
      this.#waiters.add(waiter);
      signal.addEventListener('abort', onAbort, { once: true });
      if (timeoutMs < Number.POSITIVE_INFINITY) {
        timer = clock.setTimer(timeoutMs, () => {
          settle();
          resolve(false);
        });
      }
    });
  }
}
