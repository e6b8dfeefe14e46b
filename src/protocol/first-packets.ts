/**
 * Reads the untyped packets at the start of a connection: Int32 length, then the body.
 *
 * It lives until the startup packet has been read; `release` then gives the stream to a Connection,
 * with the bytes that came after.
 */
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { ConnectionLost } from './connection.ts';
import { STARTUP_PACKET_BYTES_MAX } from './startup.ts';

const LENGTH_BYTES = 4;
const PACKET_BYTES_MIN = 8;

export class FirstPackets {
  readonly #socket: Duplex;
  #bytes = Buffer.alloc(0);
  #failure: Error | undefined;
  #wake: (() => void) | undefined;
  readonly #onData = (chunk: Buffer): void => {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    // Nobody has reason to send more before there was an answer.
    if (this.#bytes.length > STARTUP_PACKET_BYTES_MAX) this.#socket.pause();
    this.#wake?.();
  };
  readonly #onEnd = (): void => {
    this.#failure ??= new ConnectionLost(
      SQLSTATE.CONNECTION_FAILURE,
      'unexpected EOF during connection start',
    );
    this.#wake?.();
  };

  constructor(socket: Duplex) {
    this.#socket = socket;
    socket.on('data', this.#onData);
    for (const event of ['end', 'error', 'close']) socket.on(event, this.#onEnd);
  }

  /** The body of the next packet. Throws 08P01 for a length that no first packet can have. */
  async read(): Promise<Buffer> {
    for (;;) {
      const body = this.#cut();
      if (body !== undefined) return body;
      if (this.#failure !== undefined) throw this.#failure;
      this.#socket.resume();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Stops reading; returns the bytes that came after the last packet. */
  release(): Buffer {
    this.#socket.pause();
    this.#socket.off('data', this.#onData);
    for (const event of ['end', 'error', 'close']) this.#socket.off(event, this.#onEnd);
    this.#socket.on('error', () => {});
    return this.#bytes;
  }

  #cut(): Buffer | undefined {
    if (this.#bytes.length < LENGTH_BYTES) return undefined;
    const length = this.#bytes.readUInt32BE(0);
    if (length < PACKET_BYTES_MIN || length > STARTUP_PACKET_BYTES_MAX) {
      throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, 'invalid length of startup packet', {
        detail: `The length is ${length}.`,
      });
    }
    if (this.#bytes.length < length) return undefined;
    const body = this.#bytes.subarray(LENGTH_BYTES, length);
    this.#bytes = this.#bytes.subarray(length);
    return body;
  }
}
