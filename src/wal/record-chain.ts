/**
 * The chain of records: each names the start of the one before it, its prev link.
 *
 * Here is the fast path of the walker, as most records lie whole in a page and a chunk: they are
 * proven in place, without a copy, an allocation or a bigint. The previous record's start is kept
 * as prev links have it, in two signed halves.
 */
import { CRC32C_START, crc32cFinish, crc32cUpdate } from './crc32c.ts';
import { ANY_RECORD, type WalFormat } from './formats.ts';
import { lsn, type Lsn } from './lsn.ts';
import { RECORD_CRC_OFFSET, RECORD_HEADER_BYTES, RECORD_KIND, recordKind } from './record.ts';

export class RecordChain {
  #low = 0;
  #high = 0;
  #isKnown = false;

  /** The start of the last record, if it is known. */
  get last(): Lsn | undefined {
    if (!this.#isKnown) return undefined;
    return lsn((BigInt(this.#high >>> 0) << 32n) | BigInt(this.#low >>> 0));
  }

  append(start: Lsn): void {
    this.#low = low(start);
    this.#high = high(start);
    this.#isKnown = true;
  }

  /**
   * Proves the records in `view` from `from` to `to`, in one page, of which the first byte is at
   * `position`; returns how many bytes they are. It stops at the first record that is not whole,
   * has a meaning for the walker, or is wrong in any way: the slow path knows what to do or say.
   */
  proveInPlace(view: DataView, { from, to, position, format }: ProveOptions): number {
    if (!this.#isKnown) return 0;
    const { isResourceManager } = format ?? ANY_RECORD;
    // A page lies within 4 GB, so its records differ only in the lower half.
    const pageHigh = high(position);
    const lowAtZero = low(position) - from;
    let previousLow = this.#low;
    let previousHigh = this.#high;
    let at = from;
    while (to - at >= RECORD_HEADER_BYTES) {
      const length = view.getUint32(at, true);
      const next = at + length + (-length & 7);
      if (length < RECORD_HEADER_BYTES || next > to) break;
      if (view.getInt32(at + 8, true) !== previousLow) break;
      if (view.getInt32(at + 12, true) !== previousHigh) break;
      const resourceManager = view.getUint8(at + 17);
      if (isResourceManager[resourceManager] !== true) break;
      if (recordKind(resourceManager, view.getUint8(at + 16)) !== RECORD_KIND.OTHER) break;
      const body = crc32cUpdate(CRC32C_START, view, at + RECORD_HEADER_BYTES, at + length);
      const crc = crc32cFinish(crc32cUpdate(body, view, at, at + RECORD_CRC_OFFSET));
      if (crc !== view.getInt32(at + RECORD_CRC_OFFSET, true)) break;
      previousLow = (lowAtZero + at) | 0;
      previousHigh = pageHigh;
      at = next;
    }
    this.#low = previousLow;
    this.#high = previousHigh;
    return at - from;
  }
}

export interface ProveOptions {
  readonly from: number;
  readonly to: number;
  readonly position: Lsn;
  readonly format: WalFormat | undefined;
}

function low(position: Lsn): number {
  return Number(position & 0xffff_ffffn) | 0;
}

function high(position: Lsn): number {
  return Number(position >> 32n) | 0;
}
