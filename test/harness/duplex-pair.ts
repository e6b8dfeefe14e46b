/**
 * Two streams that are each other's other end, without a network between: what one writes the
 * other reads. `write` is acknowledged when the other side has taken it, which is backpressure.
 */
import { Duplex } from 'node:stream';

export function duplexPair(): [Duplex, Duplex] {
  const sides: End[] = [];
  const one = new End(() => sides[1]);
  const other = new End(() => sides[0]);
  sides.push(one, other);
  return [one, other];
}

class End extends Duplex {
  readonly #peer: () => End | undefined;
  /** What is being written: told when the other side takes it, or that it never will. */
  #sending: ((error?: Error) => void) | undefined;

  constructor(peer: () => End | undefined) {
    super({ allowHalfOpen: true });
    this.#peer = peer;
  }

  override _read(): void {
    const peer = this.#peer();
    if (peer !== undefined) peer.#settle();
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    const peer = this.#peer();
    if (peer === undefined || peer.destroyed) return done();
    if (chunk.length === 0) return done();
    if (peer.push(chunk)) setImmediate(done);
    else this.#sending = done;
  }

  override _final(done: () => void): void {
    this.#peer()?.push(null);
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const peer = this.#peer();
    if (peer !== undefined && !peer.destroyed) setImmediate(() => peer.destroy());
    this.#settle(error ?? new Error('the stream was closed'));
    done(error);
  }

  #settle(error?: Error): void {
    const done = this.#sending;
    this.#sending = undefined;
    done?.(error);
  }
}
