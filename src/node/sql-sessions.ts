/**
 * The SQL sessions of the node's clients on the attached server, each over a connection of its own
 * through the server's private socket, and the CancelRequests that are meant for them.
 *
 * It lives as long as the front door; a session ends with either of its ends. The attached server
 * limits how many there are.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { BackendKeyData } from '../protocol/backend-messages.ts';
import { ConnectionLost } from '../protocol/connection.ts';
import { encodeCancelRequest } from '../protocol/startup.ts';
import type { CancelKeys, CancelTarget } from './cancel-keys.ts';
import { passSql } from './sql-passage.ts';

/** Where connections that are not physical replication go. */
export interface AttachedDoor {
  /** A connection to the attached server's private socket; rejects when it does not run. */
  connect(signal: AbortSignal): Promise<Duplex>;
}

export interface SqlSessionsOptions {
  server: AttachedDoor;
  keys: CancelKeys;
  clock: Clock;
}

/** How long clients may take for the server's last words. */
const LINGER_MS = 5000;

export class SqlSessions {
  readonly #server: AttachedDoor;
  readonly #keys: CancelKeys;
  readonly #clock: Clock;
  readonly #open = new Map<Duplex, Promise<void>>();

  constructor({ server, keys, clock }: SqlSessionsOptions) {
    this.#server = server;
    this.#keys = keys;
    this.#clock = clock;
  }

  /**
   * Serves a client that has been let in; resolves when its session has ended. `opening` is what
   * the server is told first, `onGreeted` is called when it has answered. Rejects with 57P03 when
   * the server does not run.
   */
  serve(
    client: Duplex,
    { opening, onGreeted }: { opening: Buffer; onGreeted: () => void },
  ): Promise<void> {
    const ended = this.#pass(client, opening, onGreeted).finally(() => this.#open.delete(client));
    this.#open.set(client, ended);
    return ended;
  }

  /**
   * Waits for the end of all sessions, which is near when the server has been stopped; what is
   * left after LINGER_MS is closed.
   */
  async stop(): Promise<void> {
    const timer = this.#clock.setTimer(LINGER_MS, () => {
      for (const client of this.#open.keys()) client.destroy();
    });
    await Promise.allSettled(this.#open.values());
    timer.cancel();
  }

  async #pass(client: Duplex, opening: Buffer, onGreeted: () => void): Promise<void> {
    const server = await this.#connect(client);
    await passSql({
      client,
      server,
      opening,
      onGreeted: (key) => {
        onGreeted();
        if (key !== undefined) this.#remember(key, { client, server });
      },
      onServerGone: () => this.#closeInTime(client),
    });
  }

  /** A client that has heard the end of its session closes; one that does not is closed. */
  #closeInTime(client: Duplex): void {
    if (client.destroyed) return;
    const timer = this.#clock.setTimer(LINGER_MS, () => client.destroy());
    client.once('close', () => timer.cancel());
  }

  /** Lets the session be cancelled for as long as both of its ends are there. */
  #remember(key: BackendKeyData, { client, server }: { client: Duplex; server: Duplex }): void {
    if (client.destroyed) return;
    const target: CancelTarget = {
      ...key,
      cancel: (requester) => this.#passCancel(target, requester),
    };
    this.#keys.add(target);
    for (const end of [client, server]) end.once('close', () => this.#keys.remove(target));
  }

  /** Asks the server to cancel, and waits until it has dealt with that, which it does not tell. */
  async #passCancel(target: CancelTarget, requester: Duplex): Promise<void> {
    const socket = await this.#connect(requester);
    socket.on('error', () => {});
    requester.once('close', () => socket.destroy());
    // The session may have ended meanwhile, and its process id be another's.
    if (this.#keys.isOpen(target)) {
      const handled = new Promise((resolve) => socket.once('end', resolve).once('close', resolve));
      socket.resume();
      socket.write(encodeCancelRequest(target.processId, target.key));
      await handled;
    }
    socket.destroy();
  }

  /** A connection to the server, given up when `client` closes before it is there. */
  async #connect(client: Duplex): Promise<Duplex> {
    const gone = new AbortController();
    const leave = (): void => gone.abort(clientLost());
    client.once('close', leave);
    try {
      if (client.destroyed) leave();
      gone.signal.throwIfAborted();
      return await this.#server.connect(gone.signal);
    } catch (error) {
      gone.signal.throwIfAborted();
      throw serverNotRunning(error);
    } finally {
      client.off('close', leave);
    }
  }
}

function clientLost(): ConnectionLost {
  return new ConnectionLost(SQLSTATE.CONNECTION_FAILURE, 'unexpected EOF on client connection');
}

function serverNotRunning(cause: unknown): WalcadeError {
  return new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, 'the database system is starting up', {
    detail: 'The attached PostgreSQL server is not running at the moment.',
    cause,
  });
}
