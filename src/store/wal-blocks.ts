/**
 * The WAL of the current timeline in memory: what arrives, as far as it is not written yet, and
 * whatever the cache holds of the rest. It lives as long as the store.
 *
 *   live blocks   from the first unwritten byte to `end`, pinned: they cannot be read from disk
 */
import { assert } from '../base/assert.ts';
import { type Lsn, type TimelineId, advance, alignDown, distance, lsn } from '../wal/lsn.ts';
import type { SegmentReader } from './segment-reader.ts';
import { BLOCK_BYTES, type WalBlock, WalBlockCache } from './wal-block-cache.ts';

const CACHE_BYTES = 16 * 1024 * 1024;

/** A piece of stored WAL; its bytes stay as they are until `release`. */
export interface WalChunk {
  readonly bytes: Uint8Array;
  release(): void;
}

export class WalBlocks {
  readonly #reader: SegmentReader;
  #timeline: TimelineId;
  readonly #cache = new WalBlockCache({ capacityBytes: CACHE_BYTES });
  #live: WalBlock[] = [];
  #end: Lsn;

  private constructor(reader: SegmentReader, timeline: TimelineId, end: Lsn) {
    this.#reader = reader;
    this.#timeline = timeline;
    this.#end = end;
  }

  /** Stored WAL that ends at `end`; what comes next is appended there. */
  static async open(reader: SegmentReader, timeline: TimelineId, end: Lsn): Promise<WalBlocks> {
    const blocks = new WalBlocks(reader, timeline, end);
    blocks.goOn(timeline, end, await blocks.readHead(timeline, end));
    return blocks;
  }

  /** The end of what was appended. */
  get end(): Lsn {
    return this.#end;
  }

  /** Copies `bytes` behind what is there. */
  append(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const head = this.#head();
      const length = Math.min(bytes.length - done, BLOCK_BYTES - head.filled);
      head.bytes.set(bytes.subarray(done, done + length), head.filled);
      head.filled += length;
      done += length;
      this.#end = advance(this.#end, length);
    }
  }

  /** The bytes from `from`, the first unwritten one, to `to`, as they lie in memory. */
  unwritten(from: Lsn, to: Lsn): Uint8Array[] {
    const slices: Uint8Array[] = [];
    for (const block of this.#live) {
      const start = startOf(block);
      if (start >= to) break;
      const first = start >= from ? 0 : distance(start, from);
      const last = Math.min(distance(start, to), BLOCK_BYTES);
      if (first < last) slices.push(block.bytes.subarray(first, last));
    }
    return slices;
  }

  /** All before `written` can be read from disk from now on. */
  dropWritten(written: Lsn): void {
    while (this.#live.length > 1) {
      const first = this.#live[0] as WalBlock;
      if (advance(startOf(first), BLOCK_BYTES) > written) return;
      this.#live.shift();
      this.#cache.unpin(first);
    }
  }

  /** The WAL before `position` in its block, as it is stored: what `goOn` goes on from. */
  async readHead(timeline: TimelineId, position: Lsn): Promise<Buffer> {
    const start = alignDown(position, BLOCK_BYTES);
    const head = Buffer.allocUnsafe(distance(start, position));
    if (head.length === 0) return head;
    const filled = await this.#reader.read(timeline, start, head);
    assert(filled === head.length, 'what was walked can be read');
    return head;
  }

  /**
   * Goes on at `position`, which must be stored, on `timeline`: what lies behind it there is
   * forgotten, what comes next is appended. `head` is what `readHead` gave: readers find the block
   * it lies in always, and filled.
   */
  goOn(timeline: TimelineId, position: Lsn, head: Buffer): void {
    this.#timeline = timeline;
    this.#cache.forgetFrom(timeline, blockNumber(position));
    for (const block of this.#live) this.#cache.unpin(block);
    this.#live = [];
    this.#end = alignDown(position, BLOCK_BYTES);
    this.append(head);
  }

  /** As WalStore.read(), of the file in the name of `timeline`. */
  read(timeline: TimelineId, start: Lsn, end: Lsn): WalChunk | Promise<WalChunk> {
    const number = blockNumber(start);
    const block = this.#cache.find(timeline, number);
    if (block !== undefined) return this.#chunk(block, start, end);
    const position = alignDown(start, BLOCK_BYTES);
    return this.#cache
      .load(timeline, number, (bytes) => this.#reader.read(timeline, position, bytes))
      .then((loaded) => this.#chunk(loaded, start, end));
  }

  #chunk(block: WalBlock, start: Lsn, end: Lsn): WalChunk {
    const blockStart = startOf(block);
    const from = distance(blockStart, start);
    const to = Math.min(distance(blockStart, end), BLOCK_BYTES);
    if (to > block.filled) this.#cache.unpin(block);
    assert(to <= block.filled, 'what is served is in its block');
    let isReleased = false;
    return {
      bytes: block.bytes.subarray(from, to),
      release: () => {
        assert(!isReleased, 'a chunk is released once');
        isReleased = true;
        this.#cache.unpin(block);
      },
    };
  }

  #head(): WalBlock {
    const number = blockNumber(this.#end);
    const last = this.#live.at(-1);
    if (last?.number === number) return last;
    const block = this.#cache.create(this.#timeline, number);
    this.#live.push(block);
    return block;
  }
}

function blockNumber(position: Lsn): number {
  return Number(position / BigInt(BLOCK_BYTES));
}

function startOf({ number }: WalBlock): Lsn {
  return lsn(BigInt(number) * BigInt(BLOCK_BYTES));
}
