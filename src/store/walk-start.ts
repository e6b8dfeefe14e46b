/**
 * Where the next start begins to walk: at the newest proven record that is durable.
 *
 * WAL may arrive faster than it becomes durable, so that the newest proven record never is: one is
 * kept as the candidate until it is durable. It lives as long as the store.
 */
import type { Lsn } from '../wal/lsn.ts';
import type { WalWalker } from '../wal/walker.ts';

export class WalkStart {
  #candidate: { start: Lsn; end: Lsn } | undefined;
  #lsn: Lsn | undefined;

  /** The start of that record; undefined until one became durable. */
  get lsn(): Lsn | undefined {
    return this.#lsn;
  }

  /** WAL has arrived and was walked. */
  walked({ provenRecordStart, proven }: WalWalker): void {
    if (provenRecordStart === undefined) return;
    this.#candidate ??= { start: provenRecordStart, end: proven };
  }

  /** All before `flushed` has become durable. */
  flushed({ provenRecordStart, proven }: WalWalker, flushed: Lsn): void {
    if (provenRecordStart !== undefined && proven <= flushed) this.#lsn = provenRecordStart;
    else if (this.#candidate !== undefined && this.#candidate.end <= flushed) {
      this.#lsn = this.#candidate.start;
    } else return;
    this.#candidate = undefined;
  }

  /** What was walked and is not durable, or lies behind `position`, is taken back. */
  rewind(position: Lsn): void {
    this.#candidate = undefined;
    if (this.#lsn !== undefined && this.#lsn >= position) this.#lsn = undefined;
  }
}
