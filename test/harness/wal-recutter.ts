/**
 * Cuts a sending server's WalData messages into smaller ones at random places, which no real
 * sending server does: a PostgreSQL standby that gets such a stream unmended finds CRC errors,
 * and a node between the two must mend it.
 *
 * It takes what a server sends on one connection, from its first byte, and gives what to pass
 * on. Everything but WalData passes unchanged, and so does all of a TLS connection.
 */
const FRAME_HEADER_BYTES = 5;
const WAL_DATA_HEADER_BYTES = 25;
const PIECES_MAX = 5;

export type RandomNumber = () => number;

export class WalRecutter {
  readonly #random: RandomNumber;
  #unread: Buffer = Buffer.alloc(0);
  #state: 'start' | 'messages' | 'opaque' = 'start';

  constructor(random: RandomNumber) {
    this.#random = random;
  }

  /** The frames completed by `chunk`, each to be written by itself. */
  push(chunk: Buffer): Buffer[] {
    if (this.#state === 'opaque') return [chunk];
    this.#unread = Buffer.concat([this.#unread, chunk]);
    const frames: Buffer[] = [];
    if (this.#state === 'start') frames.push(...this.#takeEncryptionAnswer());
    for (;;) {
      const frame = this.#takeFrame();
      if (frame === undefined) break;
      frames.push(...this.#recut(frame));
    }
    return frames;
  }

  /**
   * An answer to SSLRequest or GSSENCRequest is one byte without a length. No message that a
   * server starts with has the type `N`, so as a first byte it can only be that answer.
   */
  #takeEncryptionAnswer(): Buffer[] {
    const answers: Buffer[] = [];
    while (this.#state === 'start' && this.#unread.length > 0) {
      const first = String.fromCharCode(this.#unread.readUInt8(0));
      if (first === 'N') {
        answers.push(this.#unread.subarray(0, 1));
        this.#unread = this.#unread.subarray(1);
      } else if (first === 'S' || first === 'G') {
        this.#state = 'opaque';
        answers.push(this.#unread);
        this.#unread = Buffer.alloc(0);
      } else {
        this.#state = 'messages';
      }
    }
    return answers;
  }

  #takeFrame(): Buffer | undefined {
    if (this.#state !== 'messages' || this.#unread.length < FRAME_HEADER_BYTES) return undefined;
    const frameBytes = 1 + this.#unread.readInt32BE(1);
    if (this.#unread.length < frameBytes) return undefined;
    const frame = this.#unread.subarray(0, frameBytes);
    this.#unread = this.#unread.subarray(frameBytes);
    return frame;
  }

  #recut(frame: Buffer): Buffer[] {
    const body = frame.subarray(FRAME_HEADER_BYTES);
    const isWalData = frame[0] === 0x64 && body[0] === 0x77;
    const wal = body.subarray(WAL_DATA_HEADER_BYTES);
    if (!isWalData || wal.length < 2) return [frame];
    const start = body.readBigInt64BE(1);
    const walEndAndTime = body.subarray(9, WAL_DATA_HEADER_BYTES);
    return this.#chooseCuts(wal.length).map(([from, to]) => {
      const header = Buffer.alloc(FRAME_HEADER_BYTES + 9);
      header.write('d', 0, 'latin1');
      header.writeInt32BE(4 + WAL_DATA_HEADER_BYTES + to - from, 1);
      header.write('w', FRAME_HEADER_BYTES, 'latin1');
      header.writeBigInt64BE(start + BigInt(from), FRAME_HEADER_BYTES + 1);
      return Buffer.concat([header, walEndAndTime, wal.subarray(from, to)]);
    });
  }

  /** Divides `bytes` into one to PIECES_MAX ranges, none of them empty. */
  #chooseCuts(bytes: number): [number, number][] {
    const cuts = new Set([bytes]);
    for (let piece = 1; piece < PIECES_MAX; piece += 1) {
      cuts.add(1 + Math.floor(this.#random() * (bytes - 1)));
    }
    let from = 0;
    return [...cuts]
      .sort((a, b) => a - b)
      .map((to) => {
        const range: [number, number] = [from, to];
        from = to;
        return range;
      });
  }
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
export function seededRandom(seed: number): RandomNumber {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b_79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
