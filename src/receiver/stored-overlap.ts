/**
 * The end of what is stored, asked of the upstream once more when a connection begins, and
 * compared: two promotions at one point can give the same timeline number and history file, but
 * not the same WAL. It lives until the stream has passed what was received.
 *
 *   start ≤ served ≤ end = received    compared up to served, passed over from there to the end
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { WalStore } from '../store/wal-store.ts';
import { type Lsn, advance, alignDown, distance, formatLsn, lsn } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { segmentStart } from '../wal/segment.ts';

/** A connection that breaks again and again must get on: no more than this is asked for twice. */
const OVERLAP_BYTES_MAX = 1024 * 1024;

export class StoredOverlap {
  readonly start: Lsn;
  readonly #end: Lsn;
  readonly #stored: Buffer;
  #next: Lsn;

  private constructor(start: Lsn, end: Lsn, stored: Buffer) {
    this.start = start;
    this.#end = end;
    this.#stored = stored;
    this.#next = start;
  }

  /** Reads what is to be compared; a store that has nothing to compare gives an empty overlap. */
  static async read(store: WalStore): Promise<StoredOverlap> {
    const { history, received, segmentBytes } = store;
    const served = store.served.value;
    const start = overlapStart({ served, received, segmentBytes });
    const parts: Buffer[] = [];
    for (let at = start; at < served; ) {
      const chunk = await store.read(history, at, served);
      parts.push(Buffer.from(chunk.bytes));
      at = advance(at, chunk.bytes.length);
      chunk.release();
    }
    return new StoredOverlap(start, received, Buffer.concat(parts));
  }

  /** Where the stream is; undefined once it has passed the overlap. */
  get next(): Lsn | undefined {
    return this.#next < this.#end ? this.#next : undefined;
  }

  /** Takes the next bytes of the stream and gives those that are new; throws if they differ. */
  pass(bytes: Buffer): Buffer {
    const length = Math.min(bytes.length, distance(this.#next, this.#end));
    const from = distance(this.start, this.#next);
    const stored = this.#stored.subarray(from, from + length);
    if (!stored.equals(bytes.subarray(0, stored.length))) {
      throw differs(
        advance(
          this.#next,
          stored.findIndex((byte, index) => byte !== bytes[index]),
        ),
      );
    }
    this.#next = advance(this.#next, length);
    return bytes.subarray(length);
  }
}

/**
 * The page of the last byte that is served, or `received` if there is nothing to compare: of an
 * earlier segment the upstream may have let go, and an unfinished record may be long.
 */
export function overlapStart({
  served,
  received,
  segmentBytes,
}: {
  served: Lsn;
  received: Lsn;
  segmentBytes: number;
}): Lsn {
  if (served <= segmentStart(received, segmentBytes)) return received;
  const start = alignDown(lsn(served - 1n), PAGE_BYTES);
  return distance(start, received) > OVERLAP_BYTES_MAX ? received : start;
}

function differs(position: Lsn): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `WAL of the upstream differs from this node's at ${formatLsn(position)}`,
    {
      detail: 'The two have the same timeline and not the same history. Nothing was overwritten.',
      hint: 'Point primary_conninfo at the server that this node followed, or make the node anew.',
    },
  );
}
