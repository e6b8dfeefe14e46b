/**
 * Recent and recently read WAL in memory, in aligned blocks that all readers share.
 *
 * The store fills a block as WAL arrives; a block that is no longer here is loaded from its segment
 * file, once for everybody who asks. A block is pinned while somebody uses its bytes, so memory is
 * bounded by the capacity plus what is pinned; buffers of dropped blocks are used again.
 *
 *   filled     bytes of a block from its start on that hold WAL; the rest is not to be read
 *   pins > 0   the buffer stays as it is
 */
import { assert } from '../base/assert.ts';
import type { TimelineId } from '../wal/lsn.ts';

/** Divides every segment size and is a multiple of the page size: a block's end is a safe cut. */
export const BLOCK_BYTES = 1024 * 1024;

export interface WalBlock {
  readonly timeline: TimelineId;
  /** LSN / BLOCK_BYTES. */
  readonly number: number;
  readonly bytes: Buffer;
  filled: number;
  pins: number;
}

interface LoadingBlock {
  readonly timeline: TimelineId;
  readonly number: number;
  readonly done: Promise<WalBlock>;
}

export class WalBlockCache {
  readonly #capacityBlocks: number;
  readonly #blocks = new Map<string, WalBlock>();
  readonly #loading = new Map<string, LoadingBlock>();
  readonly #spareBuffers: Buffer[] = [];

  constructor({ capacityBytes }: { capacityBytes: number }) {
    this.#capacityBlocks = Math.ceil(capacityBytes / BLOCK_BYTES);
  }

  /** The block if it is in memory, pinned for the caller, who must `unpin` it. */
  find(timeline: TimelineId, number: number): WalBlock | undefined {
    const key = blockKey(timeline, number);
    const block = this.#blocks.get(key);
    if (block === undefined) return undefined;
    // A Map keeps insertion order: the first key is the one that was used longest ago.
    this.#blocks.delete(key);
    this.#blocks.set(key, block);
    block.pins++;
    return block;
  }

  /** A new, empty block in the cache, pinned for the caller. */
  create(timeline: TimelineId, number: number): WalBlock {
    const key = blockKey(timeline, number);
    assert(!this.#blocks.has(key), 'a block is in the cache once');
    const bytes = this.#spareBuffers.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
    const block = { timeline, number, bytes, filled: 0, pins: 1 };
    this.#blocks.set(key, block);
    this.#dropUnused();
    return block;
  }

  /** The block, read by `fill` if it is not in memory; pinned for the caller. */
  async load(
    timeline: TimelineId,
    number: number,
    fill: (bytes: Buffer) => Promise<number>,
  ): Promise<WalBlock> {
    const key = blockKey(timeline, number);
    for (;;) {
      const found = this.find(timeline, number);
      if (found !== undefined) return found;
      const loading = this.#loading.get(key);
      if (loading !== undefined) {
        await loading.done;
        continue;
      }
      const isRemembered = (): boolean => this.#loading.get(key) === reading;
      const done = this.#read(timeline, number, { fill, isRemembered });
      const reading = { timeline, number, done };
      this.#loading.set(key, reading);
      try {
        return await done;
      } finally {
        if (isRemembered()) this.#loading.delete(key);
      }
    }
  }

  unpin(block: WalBlock): void {
    assert(block.pins > 0, 'who unpins a block has pinned it');
    block.pins--;
    if (block.pins === 0) this.#dropUnused();
  }

  /**
   * Forgets what is cached of a timeline from block `number` on, also what is being loaded. Who
   * uses such a block keeps it; nobody else gets it.
   */
  forgetFrom(timeline: TimelineId, number: number): void {
    for (const blocks of [this.#blocks, this.#loading]) {
      for (const [key, block] of blocks) {
        if (block.timeline === timeline && block.number >= number) blocks.delete(key);
      }
    }
  }

  async #read(
    timeline: TimelineId,
    number: number,
    {
      fill,
      isRemembered,
    }: { fill: (bytes: Buffer) => Promise<number>; isRemembered: () => boolean },
  ): Promise<WalBlock> {
    const bytes = this.#spareBuffers.pop() ?? Buffer.allocUnsafeSlow(BLOCK_BYTES);
    const filled = await fill(bytes);
    const block = { timeline, number, bytes, filled, pins: 1 };
    if (isRemembered()) this.#blocks.set(blockKey(timeline, number), block);
    this.#dropUnused();
    return block;
  }

  #dropUnused(): void {
    if (this.#blocks.size <= this.#capacityBlocks) return;
    for (const [key, block] of this.#blocks) {
      if (block.pins > 0) continue;
      this.#blocks.delete(key);
      if (this.#spareBuffers.length < SPARE_BUFFERS_MAX) this.#spareBuffers.push(block.bytes);
      if (this.#blocks.size <= this.#capacityBlocks) return;
    }
  }
}

const SPARE_BUFFERS_MAX = 16;

function blockKey(timeline: TimelineId, number: number): string {
  return `${timeline}/${number}`;
}
