/**
 * Waiting for something to change, without polling: `notify` wakes everybody who waits, and each
 * looks again (PostgreSQL's condition variables, condition_variable.c).
 */
import type { Clock, Timer } from './clock.ts';

export class Condition {
  readonly #wakes = new Set<() => void>();

  notify(): void {
    for (const wake of this.#wakes) wake();
  }

  /** Calls `wake` at each `notify` until the function that is returned is called. */
  listen(wake: () => void): () => void {
    this.#wakes.add(wake);
    return () => {
      this.#wakes.delete(wake);
    };
  }

  /** Resolves at the next `notify`; rejects with the signal's reason when it aborts. */
  wait(signal: AbortSignal): Promise<void> {
    return this.#wait(signal, () => undefined);
  }

  /** As `wait`, but also resolves after `timeoutMs`. */
  waitAtMost(timeoutMs: number, clock: Clock, signal: AbortSignal): Promise<void> {
    return this.#wait(signal, (wake) => clock.setTimer(timeoutMs, wake));
  }

  #wait(signal: AbortSignal, startTimer: (wake: () => void) => Timer | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      const settle = (): void => {
        this.#wakes.delete(wake);
        signal.removeEventListener('abort', onAbort);
        timer?.cancel();
      };
      const wake = (): void => {
        settle();
        resolve();
      };
      const onAbort = (): void => {
        settle();
        reject(signal.reason as Error);
      };
      const timer = startTimer(wake);
      this.#wakes.add(wake);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }
}
