/**
 * Watches over what the store does with its disk: for how long it has been at it, so that somebody
 * else can tell a write that hangs from a store with nothing to write, and whether an fsync failed.
 * It lives as long as the store.
 */
import type { Clock } from '../base/clock.ts';
import { FsyncFailed } from './disk-refusal.ts';

export class DiskGuard {
  readonly #clock: Clock;
  readonly #onFailure: () => void;
  readonly #running = new Set<{ startMs: number }>();
  #lost: FsyncFailed | undefined;
  #syncMs = 0;

  /** `onFailure` is called when something that was to be durable has failed. */
  constructor(clock: Clock, onFailure: () => void) {
    this.#clock = clock;
    this.#onFailure = onFailure;
  }

  /** For how long the oldest action that runs now has been running, in milliseconds. */
  get busyMs(): number {
    let busyMs = 0;
    for (const { startMs } of this.#running) {
      busyMs = Math.max(busyMs, this.#clock.monotonicMs() - startMs);
    }
    return busyMs;
  }

  /** That an fsync has failed: what was written since the last one may be gone. */
  get lost(): FsyncFailed | undefined {
    return this.#lost;
  }

  /** How long what was last made durable took, in milliseconds. */
  get syncMs(): number {
    return this.#syncMs;
  }

  /** Runs `action` while its time is taken; ends as it does. */
  async run(action: () => Promise<void>): Promise<void> {
    const run = { startMs: this.#clock.monotonicMs() };
    this.#running.add(run);
    try {
      await action();
    } finally {
      this.#running.delete(run);
    }
  }

  /** As `run`, and remembers that an fsync failed: the next one could succeed without the data. */
  async durably(action: () => Promise<void>): Promise<void> {
    const startMs = this.#clock.monotonicMs();
    try {
      await this.run(action);
      this.#syncMs = this.#clock.monotonicMs() - startMs;
    } catch (error) {
      if (error instanceof FsyncFailed) this.#lost = error;
      this.#onFailure();
      throw error;
    }
  }
}
