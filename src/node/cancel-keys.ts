/**
 * Which session a CancelRequest means: process ids and keys of those that are open, of our own
 * WAL senders and of the attached server. It lives as long as the front door; an entry lives as
 * long as its session, so that nothing is ever cancelled in the name of one that has ended.
 */
import { timingSafeEqual } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { BackendKeyData } from '../protocol/backend-messages.ts';

export interface CancelTarget extends BackendKeyData {
  /** Cancels what the session does now; `requester` is the connection that asks for it. */
  cancel(requester: Duplex): Promise<void>;
}

export class CancelKeys {
  readonly #targets = new Map<number, CancelTarget>();

  /** A process id that is given again belongs to the new session. */
  add(target: CancelTarget): void {
    this.#targets.set(target.processId, target);
  }

  remove(target: CancelTarget): void {
    if (this.#targets.get(target.processId) === target) this.#targets.delete(target.processId);
  }

  isOpen(target: CancelTarget): boolean {
    return this.#targets.get(target.processId) === target;
  }

  /** The session with exactly this id and key. How long it takes does not tell of the key. */
  find({ processId, key }: BackendKeyData): CancelTarget | undefined {
    const target = this.#targets.get(processId);
    if (target === undefined || target.key.length !== key.length) return undefined;
    return timingSafeEqual(target.key, key) ? target : undefined;
  }
}
