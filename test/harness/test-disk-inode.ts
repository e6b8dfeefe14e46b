/**
 * The content of one file of a TestDisk: as written, and as it was when it was last synced.
 *
 * It lives as long as a name or an open file stands for it.
 */

const SECTOR_BYTES = 512;

/** Asked once for each thing that was not synced: whether it outlives a power cut. */
export type Keep = () => boolean;

export class Inode {
  /** The last name it was given, with its directory. */
  path = '';
  /** Zeros beyond the size. Both buffers are of the same length. */
  #content: Buffer;
  #durable: Buffer;
  #size: number;
  #durableSize: number;
  /** Sectors in which the two may differ. */
  readonly #unsynced = new Set<number>();

  constructor(durable: Buffer = Buffer.alloc(0)) {
    this.#content = durable;
    this.#durable = Buffer.from(durable);
    this.#size = durable.length;
    this.#durableSize = durable.length;
  }

  get size(): number {
    return this.#size;
  }

  bytes(): Buffer {
    return this.#content.subarray(0, this.#size);
  }

  read(into: Uint8Array, position: number): number {
    const length = Math.max(0, Math.min(into.length, this.#size - position));
    this.#content.copy(into, 0, position, position + length);
    return length;
  }

  write(buffers: readonly Uint8Array[], position: number): void {
    let at = position;
    for (const bytes of buffers) {
      this.#touch(at, at + bytes.length);
      this.#content.set(bytes, at);
      at += bytes.length;
      this.#size = Math.max(this.#size, at);
    }
  }

  truncate(bytes: number): void {
    this.#touch(bytes, Math.max(bytes, this.#size));
    this.#content.fill(0, bytes);
    this.#size = bytes;
  }

  sync(): void {
    for (const sector of this.#unsynced) copySector(this.#content, this.#durable, sector);
    this.#unsynced.clear();
    this.#durableSize = this.#size;
  }

  flipBit(offset: number): void {
    for (const bytes of [this.#content, this.#durable]) {
      bytes.writeUInt8(bytes.readUInt8(offset) ^ 1, offset);
    }
  }

  afterPowerCut(keep: Keep): Inode {
    const size = this.#size === this.#durableSize || keep() ? this.#size : this.#durableSize;
    const found = Buffer.from(this.#content);
    for (const sector of this.#unsynced) if (!keep()) copySector(this.#durable, found, sector);
    return new Inode(found.subarray(0, size));
  }

  /** Makes room up to `to`, and notes that what lies from `from` to there is about to change. */
  #touch(from: number, to: number): void {
    if (to > this.#content.length) {
      const length = Math.max(to, 2 * this.#content.length);
      this.#content = enlarged(this.#content, length);
      this.#durable = enlarged(this.#durable, length);
    }
    const first = Math.floor(from / SECTOR_BYTES);
    for (let sector = first; sector * SECTOR_BYTES < to; sector++) this.#unsynced.add(sector);
  }
}

function copySector(from: Buffer, to: Buffer, sector: number): void {
  from.copy(to, sector * SECTOR_BYTES, sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES);
}

function enlarged(bytes: Buffer, length: number): Buffer {
  const larger = Buffer.alloc(length);
  bytes.copy(larger);
  return larger;
}
