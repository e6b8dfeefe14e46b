/**
 * Where the WAL receiver can be held, before a round and before it connects: nothing is received,
 * and the stream that it had has ended, once it stands there. One for as long as the node runs.
 */
import { Condition } from '../base/condition.ts';

export class ReceiverHold {
  readonly #changed = new Condition();
  #isClosed = false;
  #isReceiverHere = false;

  get isClosed(): boolean {
    return this.#isClosed;
  }

  /**
   * Closes it, calls `endStream`, and resolves once the receiver stands before it; rejects with the
   * signal's reason. It stays closed until `open`.
   */
  async close(endStream: () => void, signal: AbortSignal): Promise<void> {
    this.#isClosed = true;
    if (!this.#isReceiverHere) endStream();
    await this.untilReceiverIsHere(signal);
  }

  /** Resolves once the receiver stands here; rejects with the signal's reason. */
  async untilReceiverIsHere(signal: AbortSignal): Promise<void> {
    while (!this.#isReceiverHere) await this.#changed.wait(signal);
  }

  open(): void {
    this.#isClosed = false;
    this.#changed.notify();
  }

  /** For the receiver: resolves while it is open; rejects with the signal's reason. */
  async pass(signal: AbortSignal): Promise<void> {
    while (this.#isClosed) await this.stand(this.#changed, signal);
  }

  /** For the receiver: as `changed.wait`, and it stands here meanwhile. */
  async stand(changed: Condition, signal: AbortSignal): Promise<void> {
    this.#isReceiverHere = true;
    this.#changed.notify();
    try {
      await changed.wait(signal);
    } finally {
      this.#isReceiverHere = false;
    }
  }
}
