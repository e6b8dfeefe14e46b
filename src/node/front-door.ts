/**
 * The front door: every connection to the node's port comes in here.
 *
 *   accepted ─▶ first packets (SSL, GSS refused; cancel dealt with) ─▶ rules ─┬▶ WAL sender session
 *                                                                             └▶ attached server
 *
 * The startup packet decides, and no byte of it goes further: the server behind is told what was
 * understood here, so that what the rules were matched with is what it does. No stranger costs
 * more than one small buffer, nor stays longer than authentication_timeout. It lives as long as
 * the node.
 */
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type HbaRule, hbaRefusal, matchHba } from '../config/hba.ts';
import { ConnectionLost } from '../protocol/connection.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { FirstPackets } from '../protocol/first-packets.ts';
import { type PeerAddress, describePeer } from '../protocol/network.ts';
import {
  type ReplicationMode,
  type SessionStartup,
  cleanApplicationName,
  cutName,
  encodeSessionStartup,
  parseStartupPacket,
  replicationMode,
} from '../protocol/startup.ts';
import type { SenderContext } from '../sender/sender-context.ts';
import { CancelKeys } from './cancel-keys.ts';
import { SenderSessions } from './sender-sessions.ts';
import { type AttachedDoor, SqlSessions } from './sql-sessions.ts';

export type { AttachedDoor } from './sql-sessions.ts';

export interface FrontDoorSettings {
  authenticationTimeoutMs: number;
  maxWalSenders: number;
  logConnections: boolean;
  hbaRules: readonly HbaRule[];
}

export interface FrontDoorOptions {
  context: SenderContext;
  settings: () => FrontDoorSettings;
  /** Where connections that are not physical replication go; a relay has no such place. */
  server?: AttachedDoor | undefined;
  clock: Clock;
  log: Log;
}

const REFUSES_ENCRYPTION = Buffer.from('N');
const SPARE_STRANGERS = 250;

/** A connection, and whether it came by the private socket. */
interface Visitor {
  readonly socket: Duplex;
  readonly peer: PeerAddress;
  readonly isAttached: boolean;
  readonly log: Log;
}

/** What a startup packet asks for, as the rules see it. */
interface Request {
  readonly mode: ReplicationMode;
  readonly user: string;
  readonly database: string;
  readonly applicationName: string;
}

export class FrontDoor {
  readonly #options: FrontDoorOptions;
  readonly #log: Log;
  readonly #keys = new CancelKeys();
  readonly #senders: SenderSessions;
  readonly #sql: SqlSessions | undefined;
  readonly #connections = new Set<Duplex>();
  /** Those of the connections that nobody has let in yet. */
  readonly #strangers = new Set<Duplex>();
  #isStopping = false;

  constructor(options: FrontDoorOptions) {
    const { context, settings, server, clock } = options;
    this.#options = options;
    this.#log = options.log;
    const keys = this.#keys;
    const maxWalSenders = (): number => settings().maxWalSenders;
    this.#senders = new SenderSessions({ context, maxWalSenders, keys });
    this.#sql = server === undefined ? undefined : new SqlSessions({ server, keys, clock });
  }

  /** Takes over a new connection; whatever becomes of it concerns nobody else. */
  accept(socket: Duplex, peer: PeerAddress): void {
    // As many may come at once as may be let in, and more; one beyond that costs nothing at all.
    if (this.#strangers.size >= 2 * this.#options.settings().maxWalSenders + SPARE_STRANGERS) {
      socket.destroy();
      return;
    }
    this.#strangers.add(socket);
    socket.once('close', () => this.#strangers.delete(socket));
    this.#take({ socket, peer, isAttached: false, log: this.#log.child(describePeer(peer)) });
  }

  /**
   * Takes over a connection over the private socket, which is the attached server's own WAL
   * receiver: no rule and no limit concerns it.
   */
  acceptAttached(socket: Duplex): void {
    const log = this.#log.child('attached server');
    this.#take({ socket, peer: { transport: 'local' }, isAttached: true, log });
  }

  /**
   * Lets sessions that stream WAL send what is left and those of SQL hear the server's last words,
   * ends all others; resolves when all have ended. The attached server has been stopped before.
   */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await Promise.all([this.#senders.stop(), this.#sql?.stop()]);
  }

  /** Ends every connection at once. */
  close(): void {
    for (const socket of this.#connections) socket.destroy();
  }

  #take(visitor: Visitor): void {
    const { socket } = visitor;
    this.#connections.add(socket);
    socket.once('close', () => this.#connections.delete(socket));
    this.#receive(visitor).catch((error: unknown) => {
      this.#log.error(error);
      socket.destroy();
    });
  }

  async #receive(visitor: Visitor): Promise<void> {
    const { socket, log } = visitor;
    const { clock, settings } = this.#options;
    const timer = clock.setTimer(settings().authenticationTimeoutMs, () => socket.destroy());
    if (settings().logConnections) log.log('connection received');
    const packets = new FirstPackets(socket);
    try {
      const startup = await this.#readStartup(packets, socket);
      if (startup !== undefined) {
        const readAhead = packets.release();
        await this.#admit(visitor, { startup, readAhead, onAdmitted: () => timer.cancel() });
      }
    } catch (error) {
      if (!(error instanceof ConnectionLost)) await this.#refuse(socket, error, log);
    } finally {
      socket.destroy();
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
        packets.release();
        // Who asks is never answered, whatever comes of it.
        await this.#keys
          .find(packet)
          ?.cancel(socket)
          .catch(() => {});
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

  /** Lets the visitor in and serves it to its end; throws what it is to be refused with. */
  async #admit(
    visitor: Visitor,
    options: { startup: SessionStartup; readAhead: Buffer; onAdmitted: () => void },
  ): Promise<void> {
    const { socket, peer, isAttached } = visitor;
    const { startup, readAhead, onAdmitted } = options;
    const request = readRequest(startup);
    const { mode, user, applicationName } = request;
    if (isAttached && mode !== 'physical') throw onlyPhysical();
    if (!isAttached) this.#checkRules(peer, request);
    if (mode !== 'physical' && this.#sql === undefined) throw noDatabase();
    if (this.#isStopping) throw shuttingDown();
    if (mode === 'physical' && !isAttached) this.#senders.checkFree();
    this.#strangers.delete(socket);
    const log = isAttached
      ? visitor.log
      : this.#log.child(`${applicationName || user} ${describePeer(peer)}`);
    if (this.#options.settings().logConnections) log.log(authorization(request));
    if (mode === 'physical' || this.#sql === undefined) {
      onAdmitted();
      const downstream = { user, applicationName, peer, isAttached };
      await this.#senders.serve({ socket, readAhead, startup, downstream, log });
    } else {
      const opening = Buffer.concat([encodeSessionStartup(forServer(startup, request)), readAhead]);
      await this.#sql.serve(socket, { opening, onGreeted: onAdmitted });
    }
  }

  #checkRules(peer: PeerAddress, { mode, user, database }: Request): void {
    const { transport } = peer;
    const { address, localAddress } = peer.transport === 'tcp' ? peer : {};
    const client = {
      transport,
      ...(address === undefined ? {} : { address }),
      ...(localAddress === undefined ? {} : { localAddress }),
      user,
      database,
      replication: mode === 'physical',
    };
    const result = matchHba(this.#options.settings().hbaRules, client);
    if (result.kind !== 'trust') throw hbaRefusal(result, client);
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

/** Names as the server behind would read them (ProcessStartupPacket()); throws 22023. */
function readRequest({ parameters }: SessionStartup): Request {
  const user = cutName(parameters.get('user') ?? '');
  return {
    mode: replicationMode(parameters.get('replication')),
    user,
    database: cutName(parameters.get('database') ?? '') || user,
    applicationName: cleanApplicationName(parameters.get('application_name') ?? ''),
  };
}

/** The startup for the attached server: exactly the session that the rules have allowed. */
function forServer(startup: SessionStartup, { mode, user, database }: Request): SessionStartup {
  const parameters = new Map(startup.parameters);
  parameters.set('user', user).set('database', database);
  if (mode === 'database') parameters.set('replication', 'database');
  else parameters.delete('replication');
  return { ...startup, parameters };
}

/** What log_connections says of who has been let in (postinit.c, PerformAuthentication()). */
function authorization({ mode, user, database, applicationName }: Request): string {
  const who =
    mode === 'none'
      ? `connection authorized: user=${user} database=${database}`
      : `replication connection authorized: user=${user}`;
  return applicationName === '' ? who : `${who} application_name=${applicationName}`;
}

function shuttingDown(): WalcadeError {
  return new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, 'the database system is shutting down');
}

function onlyPhysical(): WalcadeError {
  return new WalcadeError(
    SQLSTATE.FEATURE_NOT_SUPPORTED,
    'only physical replication is served on this socket',
  );
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
