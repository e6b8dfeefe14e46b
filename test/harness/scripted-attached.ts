/**
 * The private socket of an attached server that says what the test says, and clients of the node
 * in front of it, on streams in memory.
 */
import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError } from '../../src/base/errors.ts';
import type { AttachedDoor } from '../../src/node/sql-sessions.ts';
import { decodeErrorFields } from '../../src/protocol/error-response.ts';
import { duplexPair } from './duplex-pair.ts';

/** The far end of a connection, as its client sees it. */
export interface Client {
  socket: Duplex;
  heard(): Buffer;
  hasEnded(): boolean;
  /** SQLSTATE and message of what it was refused with, if it was. */
  refusal(): string | undefined;
}

/** The private socket of a server that says what the test says. */
export class ScriptedServer implements AttachedDoor {
  /** Nobody listens. */
  isAway = false;
  /** Connections are accepted only by `letIn`. */
  isHeldUp: boolean;
  readonly #streams: { near: Duplex; client: Client }[] = [];
  readonly #waiting: (() => void)[] = [];

  constructor({ isHeldUp }: { isHeldUp: boolean }) {
    this.isHeldUp = isHeldUp;
  }

  get count(): number {
    return this.#streams.length;
  }

  /** As a connection that is made although nobody wants it any more: `signal` is not heeded. */
  async connect(): Promise<Duplex> {
    if (this.isAway) throw new WalcadeError(SQLSTATE.UNABLE_TO_CONNECT, 'connection refused');
    if (this.isHeldUp) await new Promise<void>((resolve) => this.#waiting.push(resolve));
    const [near, far] = duplexPair();
    far.on('error', () => {});
    this.#streams.push({ near, client: listen(near) });
    return far;
  }

  letIn(): void {
    this.isHeldUp = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  stream(index: number): Duplex {
    return this.#at(index).near;
  }

  heard(index: number): Buffer {
    return this.#at(index).client.heard();
  }

  say(index: number, bytes: Buffer): void {
    this.stream(index).write(bytes);
  }

  #at(index: number): { near: Duplex; client: Client } {
    return this.#streams[index] ?? assert.fail(`connection ${index} was not made`);
  }
}

/** Hears all that comes on `socket`. */
export function listen(socket: Duplex): Client {
  const chunks: Buffer[] = [];
  let hasEnded = false;
  socket.on('data', (chunk: Buffer) => chunks.push(Buffer.from(chunk)));
  for (const event of ['end', 'close']) socket.on(event, () => (hasEnded = true));
  socket.on('error', () => {});
  const heard = (): Buffer => Buffer.concat(chunks);
  const refusal = (): string | undefined => {
    const bytes = heard();
    if (bytes[0] !== 'E'.charCodeAt(0)) return undefined;
    const { sqlstate, message } = decodeErrorFields(bytes.subarray(5));
    return `${sqlstate} ${message}`;
  };
  return { socket, heard, hasEnded: () => hasEnded, refusal };
}
