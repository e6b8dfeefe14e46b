/**
 * Cuts a byte stream into protocol messages: type byte, Int32 length, body.
 *
 * Bodies are views of the chunks they came in; only a message that spans chunks is copied, once.
 * CopyData may be asked for in fragments as it arrives, so that a large message is neither
 * assembled nor waited for. Lengths are checked before anything is allocated.
 */
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

export interface Message {
  /** The type byte. */
  readonly type: number;
  /** The body, or a fragment of it. */
  readonly body: Buffer;
  /** Where in the body this fragment begins; 0 for whole messages. */
  readonly offset: number;
  /** The whole body's length, in bytes. */
  readonly bodyBytes: number;
}

export interface MessageLimits {
  /** Longest body accepted for a message of type `type`, in bytes. */
  bodyBytesMax(type: number): number;
  /** CopyData is handed on in fragments, the first of which has at least this many bytes. */
  copyDataHeadBytes?: number;
}

const HEADER_BYTES = 5;
const COPY_DATA = 0x64;
const NOTHING = Buffer.alloc(0);

export class MessageReader {
  readonly #limits: MessageLimits;
  /** Bytes of a header, or of the head of a fragmented CopyData, that are not enough yet. */
  #pending: Buffer = NOTHING;
  /** The message that is being assembled or handed on in fragments. */
  #type = 0;
  #bodyBytes = 0;
  #done = 0;
  #assembled: Buffer | undefined;

  constructor(limits: MessageLimits) {
    this.#limits = limits;
  }

  /** Takes the next bytes of the stream and appends the messages they complete to `out`. */
  push(chunk: Buffer, out: Message[]): void {
    let bytes = this.#pending.length === 0 ? chunk : Buffer.concat([this.#pending, chunk]);
    this.#pending = NOTHING;
    while (bytes.length > 0) {
      if (this.#done < this.#bodyBytes) bytes = this.#continue(bytes, out);
      else if (bytes.length < HEADER_BYTES) break;
      else {
        const rest = this.#begin(bytes, out);
        if (rest === undefined) break;
        bytes = rest;
      }
    }
    // A copy of less than the head of a message: the chunk is not ours to keep.
    this.#pending = bytes.length === 0 ? NOTHING : Buffer.from(bytes);
  }

  /** Begins the message at the start of `bytes`; undefined when more is needed to begin. */
  #begin(bytes: Buffer, out: Message[]): Buffer | undefined {
    const type = bytes[0] as number;
    const bodyBytes = this.#checkedLength(type, bytes.readUInt32BE(1));
    const available = bytes.length - HEADER_BYTES;
    if (available >= bodyBytes) {
      const end = HEADER_BYTES + bodyBytes;
      out.push({ type, body: bytes.subarray(HEADER_BYTES, end), offset: 0, bodyBytes });
      return bytes.subarray(end);
    }
    const headBytes = this.#limits.copyDataHeadBytes;
    const fragmented = type === COPY_DATA && headBytes !== undefined;
    if (fragmented && available < Math.min(headBytes, bodyBytes)) return undefined;
    this.#type = type;
    this.#bodyBytes = bodyBytes;
    this.#done = 0;
    this.#assembled = fragmented ? undefined : Buffer.allocUnsafe(bodyBytes);
    return this.#continue(bytes.subarray(HEADER_BYTES), out);
  }

  #continue(bytes: Buffer, out: Message[]): Buffer {
    const length = Math.min(bytes.length, this.#bodyBytes - this.#done);
    const part = bytes.subarray(0, length);
    const offset = this.#done;
    this.#done += length;
    const type = this.#type;
    const bodyBytes = this.#bodyBytes;
    if (this.#assembled === undefined) {
      if (length > 0) out.push({ type, body: part, offset, bodyBytes });
    } else {
      part.copy(this.#assembled, offset);
      if (this.#done === bodyBytes) {
        out.push({ type, body: this.#assembled, offset: 0, bodyBytes });
        this.#assembled = undefined;
      }
    }
    return bytes.subarray(length);
  }

  #checkedLength(type: number, length: number): number {
    const bodyBytes = length - 4;
    if (bodyBytes >= 0 && bodyBytes <= this.#limits.bodyBytesMax(type)) return bodyBytes;
    assert(Number.isInteger(length), 'a length is read as a whole number');
    throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, `invalid message length ${length}`, {
      detail: `The message's type byte is 0x${type.toString(16).padStart(2, '0')}.`,
    });
  }
}
