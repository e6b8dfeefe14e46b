/**
 * For how long the disk has been busy: what runs under a watch is timed until it ends, so that
 * somebody else can tell a write that hangs from a store with nothing to write.
 */
import type { Clock } from '../base/clock.ts';

export class BusyWatch {
  readonly #clock: Clock;
  readonly #running = new Set<{ startMs: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** For how long the oldest action that runs now has been running, in milliseconds. */
  get busyMs(): number {
    let busyMs = 0;
    for (const { startMs } of this.#running) {
      busyMs = Math.max(busyMs, this.#clock.monotonicMs() - startMs);
    }
    return busyMs;
  }

  /** Runs `action` under the watch; ends as it does. */
  async run(action: () => Promise<void>): Promise<void> {
    const run = { startMs: this.#clock.monotonicMs() };
    this.#running.add(run);
    try {
      await action();
    } finally {
      this.#running.delete(run);
    }
  }
}
