/**
 * Bytes to values and back: the only place that knows how the wire writes a number or a string.
 *
 * A ByteReader lives for one message. It owns the offset, and it refuses a body that is too short
 * or too long (08P01), so no decoder looks beyond what has arrived. All integers are big-endian.
 */
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type Lsn, lsn } from '../wal/lsn.ts';

/** Reads one message's body from front to back (PostgreSQL's pqformat.c, pq_getmsg functions). */
export class ByteReader {
  readonly #body: Buffer;
  readonly #messageName: string;
  readonly #bytesMin: number;
  #offset = 0;

  /**
   * `messageName` is what errors call the message. `bytesMin` is the least that the message needs,
   * where that is fixed: a shorter body is refused at once. Throws 08P01.
   */
  constructor(body: Uint8Array, messageName: string, bytesMin = 0) {
    this.#body = asBuffer(body);
    this.#messageName = messageName;
    this.#bytesMin = bytesMin;
    this.#need(bytesMin);
  }

  get remaining(): number {
    return this.#body.length - this.#offset;
  }

  uint8(): number {
    return this.#body.readUInt8(this.#take(1));
  }

  int8(): number {
    return this.#body.readInt8(this.#take(1));
  }

  int16(): number {
    return this.#body.readInt16BE(this.#take(2));
  }

  uint16(): number {
    return this.#body.readUInt16BE(this.#take(2));
  }

  int32(): number {
    return this.#body.readInt32BE(this.#take(4));
  }

  uint32(): number {
    return this.#body.readUInt32BE(this.#take(4));
  }

  int64(): bigint {
    return this.#body.readBigInt64BE(this.#take(8));
  }

  lsn(): Lsn {
    return lsn(this.#body.readBigUInt64BE(this.#take(8)));
  }

  /** One byte; anything but zero is true. */
  flag(): boolean {
    return this.uint8() !== 0;
  }

  /** A zero-terminated string in UTF-8; what is not UTF-8 becomes U+FFFD. */
  cstring(): string {
    const end = this.#body.indexOf(0, this.#offset);
    if (end < 0) {
      throw this.#refusal(
        'invalid string in message',
        `Message "${this.#messageName}" has no zero byte at the end of a string.`,
      );
    }
    const text = this.#body.toString('utf8', this.#offset, end);
    this.#offset = end + 1;
    return text;
  }

  /** The next `count` bytes: a view of the body, not a copy. */
  bytes(count: number): Buffer {
    if (count < 0) {
      throw this.#refusal(
        'invalid message format',
        `Message "${this.#messageName}" announces a value of ${count} bytes.`,
      );
    }
    const start = this.#take(count);
    return this.#body.subarray(start, start + count);
  }

  /** All that is left: a view of the body, not a copy. */
  rest(): Buffer {
    return this.bytes(this.remaining);
  }

  /** Throws 08P01 unless the whole body has been read. */
  end(): void {
    if (this.remaining === 0) return;
    throw this.#refusal(
      'invalid message format',
      `Message "${this.#messageName}" has ${this.#body.length} bytes, ${this.#offset} are needed.`,
    );
  }

  #take(count: number): number {
    this.#need(this.#offset + count);
    const start = this.#offset;
    this.#offset += count;
    return start;
  }

  #need(bytes: number): void {
    const { length } = this.#body;
    if (bytes <= length) return;
    const needed = Math.max(bytes, this.#bytesMin);
    throw this.#refusal(
      'insufficient data left in message',
      `Message "${this.#messageName}" has ${length} bytes, at least ${needed} are needed.`,
    );
  }

  #refusal(message: string, detail: string): WalcadeError {
    return new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, message, { detail });
  }
}

/** The same memory as a Buffer. */
export function asBuffer(bytes: Uint8Array): Buffer {
  if (Buffer.isBuffer(bytes)) return bytes;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** One message of either direction after startup: type byte, Int32 length, the parts. */
export function message(typeChar: string, ...parts: readonly Uint8Array[]): Buffer {
  assert(typeChar.length === 1, 'a message type is one character');
  return Buffer.concat([Buffer.from(typeChar, 'latin1'), packet(...parts)]);
}

/** Int32 length and the parts: the form of a connection's first packet, which has no type byte. */
export function packet(...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  return Buffer.concat([int32(length), ...parts]);
}

export function int8(value: number): Buffer {
  const bytes = Buffer.alloc(1);
  bytes.writeInt8(value);
  return bytes;
}

export function int16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeInt16BE(value);
  return bytes;
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeInt32BE(value);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

/**
 * `text` in UTF-8 with its terminator. Throws 22023 if it holds a zero byte, which would end it
 * early on the other side; the text itself is not repeated, since it may be a password.
 */
export function cstring(text: string): Buffer {
  if (text.includes('\0')) {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `string of ${text.length} characters contains a zero byte`,
    );
  }
  return Buffer.from(`${text}\0`, 'utf8');
}
