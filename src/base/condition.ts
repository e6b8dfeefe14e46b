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
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error);
      const onAbort = (): void => {
        this.#wakes.delete(wake);
        reject(signal.reason as Error);
      };
      const wake = (): void => {
        this.#wakes.delete(wake);
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      this.#wakes.add(wake);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  /** As `wait`, but also resolves after `timeoutMs`. */
  async waitAtMost(timeoutMs: number, clock: Clock, signal: AbortSignal): Promise<void> {
    let timer: Timer | undefined;
    const timeout = new AbortController();
    const forward = (): void => timeout.abort(signal.reason);
    signal.addEventListener('abort', forward, { once: true });
    if (signal.aborted) forward();
    else timer = clock.setTimer(timeoutMs, () => timeout.abort(TIMED_OUT));
    try {
      await this.wait(timeout.signal);
    } catch (error) {
      if (error !== TIMED_OUT) throw error;
    } finally {
      timer?.cancel();
      signal.removeEventListener('abort', forward);
    }
  }
}

const TIMED_OUT = new Error('the wait has timed out');
