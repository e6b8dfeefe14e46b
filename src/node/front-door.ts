/**
 * The front door: every connection to the node's port comes in here.
 *
 *   accepted ─▶ first packets (SSL, GSS refused; cancel dealt with) ─▶ rules ─▶ WAL sender session
 *
 * The startup packet decides; no stranger costs more than one small buffer, and nobody stays
 * before authentication for longer than authentication_timeout. It lives as long as the node.
 */
import { randomBytes, timingSafeEqual } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type HbaClient, type HbaRule, hbaRefusal, matchHba } from '../config/hba.ts';
import { encodeNegotiateProtocolVersion } from '../protocol/backend-messages.ts';
import { Connection, ConnectionLost } from '../protocol/connection.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { FirstPackets } from '../protocol/first-packets.ts';
import type { MessageLimits } from '../protocol/message-reader.ts';
import { FRONTEND } from '../protocol/message-type.ts';
import { type PeerAddress, describePeer } from '../protocol/network.ts';
import {
  type SessionStartup,
  cleanApplicationName,
  negotiation,
  parseStartupPacket,
  replicationMode,
} from '../protocol/startup.ts';
import type { SenderContext } from '../sender/sender-context.ts';
import { SenderSession } from '../sender/session.ts';

export interface FrontDoorSettings {
  authenticationTimeoutMs: number;
  maxWalSenders: number;
  logConnections: boolean;
  hbaRules: readonly HbaRule[];
}

export interface FrontDoorOptions {
  context: SenderContext;
  settings: () => FrontDoorSettings;
  clock: Clock;
  log: Log;
}

const COPY_DATA_BYTES_MAX = 1024 * 1024;
const QUERY_BYTES_MAX = 1024 * 1024;
const OTHER_BYTES_MAX = 10_000;

const limits: MessageLimits = {
  bodyBytesMax: (type) => {
    if (type === FRONTEND.COPY_DATA) return COPY_DATA_BYTES_MAX;
    return type === FRONTEND.QUERY ? QUERY_BYTES_MAX : OTHER_BYTES_MAX;
  },
};

const REFUSES_ENCRYPTION = Buffer.from('N');
const FIRST_PID = 1000;
const SPARE_CONNECTIONS = 16;

interface OpenSession {
  session: SenderSession;
  cancelKey: Buffer;
  ended: Promise<void>;
}

export class FrontDoor {
  readonly #options: FrontDoorOptions;
  readonly #log: Log;
  readonly #stopping = new AbortController();
  readonly #sessions = new Map<number, OpenSession>();
  readonly #connections = new Set<Duplex>();
  #nextPid = FIRST_PID;

  constructor(options: FrontDoorOptions) {
    // Every session listens to it, and there may be max_wal_senders of them.
    setMaxListeners(0, this.#stopping.signal);
    this.#options = options;
    this.#log = options.log;
  }

  /** Takes over a new connection; whatever becomes of it concerns nobody else. */
  accept(socket: Duplex, peer: PeerAddress): void {
    // As many again as may stream may be about to; a stranger beyond that costs nothing at all.
    if (this.#connections.size >= 2 * this.#options.settings().maxWalSenders + SPARE_CONNECTIONS) {
      socket.destroy();
      return;
    }
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    this.#receive(socket, peer).catch((error: unknown) => {
      this.#log.error(error);
      socket.destroy();
    });
  }

  /** Lets streaming sessions send what is left, ends all others; resolves when all have ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all([...this.#sessions.values()].map(({ ended }) => ended));
  }

  /** Ends every connection at once. */
  close(): void {
    for (const socket of this.#connections) socket.destroy();
  }

  async #receive(socket: Duplex, peer: PeerAddress): Promise<void> {
    const { clock, settings } = this.#options;
    const timer = clock.setTimer(settings().authenticationTimeoutMs, () => socket.destroy());
    const log = this.#log.child(describePeer(peer));
    if (settings().logConnections) log.log('connection received');
    const packets = new FirstPackets(socket);
    try {
      const startup = await this.#readStartup(packets, socket);
      if (startup === undefined) return void socket.destroy();
      const session = this.#admit(startup, socket, peer, packets.release());
      timer.cancel();
      await session;
    } catch (error) {
      if (!(error instanceof ConnectionLost)) await this.#refuse(socket, error, log);
      socket.destroy();
    } finally {
      timer.cancel();
    }
  }

  /** Reads up to the startup packet; undefined when the connection was only to cancel something. */
  async #readStartup(packets: FirstPackets, socket: Duplex): Promise<SessionStartup | undefined> {
    const asked = new Set<string>();
    for (;;) {
      const packet = parseStartupPacket(await packets.read());
      if (packet.kind === 'startup') return packet;
      if (packet.kind === 'cancel') {
        this.#cancel(packet.processId, packet.key);
        return undefined;
      }
      if (asked.has(packet.kind)) {
        throw new WalcadeError(
          SQLSTATE.PROTOCOL_VIOLATION,
          `encryption was asked for twice in one connection start (${packet.kind})`,
        );
      }
      asked.add(packet.kind);
      socket.write(REFUSES_ENCRYPTION);
    }
  }

  #cancel(pid: number, key: Buffer): void {
    const open = this.#sessions.get(pid);
    if (open === undefined || open.cancelKey.length !== key.length) return;
    if (timingSafeEqual(open.cancelKey, key)) open.session.cancel();
  }

  async #admit(
    startup: SessionStartup,
    socket: Duplex,
    peer: PeerAddress,
    readAhead: Buffer,
  ): Promise<void> {
    const { parameters } = startup;
    const user = parameters.get('user') ?? '';
    const applicationName = cleanApplicationName(parameters.get('application_name') ?? '');
    const mode = replicationMode(parameters.get('replication'));
    const { address, localAddress } = peer.transport === 'tcp' ? peer : {};
    this.#checkRules({
      transport: peer.transport,
      ...(address === undefined ? {} : { address }),
      ...(localAddress === undefined ? {} : { localAddress }),
      user,
      database: parameters.get('database') ?? user,
      replication: mode === 'physical',
    });
    if (mode !== 'physical') throw noDatabase();
    this.#checkFree();
    const negotiated = negotiation(startup);
    if (negotiated !== undefined) {
      socket.write(encodeNegotiateProtocolVersion(negotiated.version, negotiated.unrecognized));
    }
    const pid = this.#nextPid++;
    const log = this.#log.child(`${applicationName || user} ${describePeer(peer)}`);
    if (this.#options.settings().logConnections) {
      log.log(
        `replication connection authorized: user=${user} application_name=${applicationName}`,
      );
    }
    await this.#serve({
      pid,
      log,
      downstream: {
        pid,
        user,
        applicationName,
        peer,
        startedMs: this.#options.clock.nowMs(),
        isAttached: false,
      },
      clientEncoding: parameters.get('client_encoding'),
      connection: new Connection(socket, {
        limits,
        lostMessage: 'unexpected EOF on standby connection',
        readAhead,
      }),
    });
  }

  async #serve({
    pid,
    log,
    downstream,
    clientEncoding,
    connection,
  }: {
    pid: number;
    log: Log;
    downstream: Parameters<SenderContext['downstreams']['add']>[0];
    clientEncoding: string | undefined;
    connection: Connection;
  }): Promise<void> {
    const { context } = this.#options;
    const cancelKey = randomBytes(4);
    const entry = context.downstreams.add(downstream);
    const stopping = this.#stopping.signal;
    const session = new SenderSession({
      connection,
      downstream: entry,
      context,
      cancelKey,
      clientEncoding,
      stopping,
      log,
    });
    const ended = session.run().finally(() => {
      context.downstreams.remove(entry);
      this.#sessions.delete(pid);
    });
    this.#sessions.set(pid, { session, cancelKey, ended });
    await ended;
  }

  #checkRules(client: HbaClient): void {
    const result = matchHba(this.#options.settings().hbaRules, client);
    if (result.kind !== 'trust') throw hbaRefusal(result, client);
  }

  #checkFree(): void {
    if (this.#stopping.signal.aborted) {
      throw new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, 'the database system is shutting down');
    }
    const { maxWalSenders } = this.#options.settings();
    if (this.#options.context.downstreams.size < maxWalSenders) return;
    throw new WalcadeError(
      SQLSTATE.TOO_MANY_CONNECTIONS,
      'number of requested standby connections exceeds "max_wal_senders" ' +
        `(currently ${maxWalSenders})`,
    );
  }

  async #refuse(socket: Duplex, error: unknown, log: Log): Promise<void> {
    const refusal = asWalcadeError(error);
    if (refusal.sqlstate === SQLSTATE.INTERNAL_ERROR) log.error(error);
    else log.log(`connection refused: ${refusal.message}`, refusal.detail);
    if (socket.destroyed) return;
    await new Promise<void>((resolve) => {
      socket.end(encodeErrorResponse(refusal, 'FATAL'), () => resolve());
      socket.once('close', () => resolve());
    });
  }
}

function noDatabase(): WalcadeError {
  return new WalcadeError(
    SQLSTATE.FEATURE_NOT_SUPPORTED,
    'this node is a relay: it has WAL but no database',
    {
      detail: 'It serves physical replication connections only.',
      hint: 'Connect to a PostgreSQL server for SQL, or to this node with replication=true.',
    },
  );
}
