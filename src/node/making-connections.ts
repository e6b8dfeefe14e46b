/**
 * The connections to the upstream that a node is made with. They are closed when making it is
 * called off, whatever is waited for on them, and when it is done with.
 */
import { WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { ConnectionLost } from '../protocol/connection.ts';
import { describeServer } from '../protocol/network.ts';

export class MakingConnections {
  readonly #connect: (signal: AbortSignal) => Promise<ReplicationClient>;
  readonly #signal: AbortSignal;
  readonly #clients: ReplicationClient[] = [];

  constructor(connect: (signal: AbortSignal) => Promise<ReplicationClient>, signal: AbortSignal) {
    this.#connect = connect;
    this.#signal = signal;
  }

  /** One more connection; throws what `connect` throws, or the signal's reason. */
  async connect(): Promise<ReplicationClient> {
    const client = await this.#connect(this.#signal);
    this.#clients.push(client);
    const close = (): void => client.connection.close();
    this.#signal.addEventListener('abort', close, { once: true });
    if (this.#signal.aborted) close();
    this.#signal.throwIfAborted();
    return client;
  }

  async close(): Promise<void> {
    for (const client of this.#clients) await client.close();
  }

  /**
   * What ended the work: the signal's reason if it was called off, and for a lost connection the
   * server, as one is named that refuses; else `error` itself.
   */
  describe(error: unknown): unknown {
    if (this.#signal.aborted) return this.#signal.reason;
    if (!(error instanceof ConnectionLost)) return error;
    const lost = this.#clients.find(({ connection }) => connection.closed.reason === error);
    if (lost === undefined) return error;
    const { sqlstate, message, detail } = error;
    const text = `connection to ${describeServer(lost.address)} failed: ${message}`;
    return new WalcadeError(sqlstate, text, { detail, cause: error });
  }
}
