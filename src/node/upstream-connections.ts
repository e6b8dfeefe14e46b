/**
 * The connections that a running node makes for WAL and for base backups: to the upstream that its
 * configuration names at that moment, or to its attached server.
 *
 *   standby, or none   the upstream in force is the one that primary_conninfo names
 *   promoting          none is: what came from above now would be lost to the new timeline
 *   primary            the attached server is, once it takes writes
 */
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { parseConninfo } from '../config/conninfo.ts';
import type { NodeConfig } from '../config/parameters.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { LinkCompression } from '../protocol/node-parameters.ts';
import { checkSystemIdentifier, identifySystem } from '../receiver/upstream-identity.ts';
import { AttachedRoles, USUAL_SUPERUSER } from './attached-roles.ts';
import { ATTACHED_SLOT, makeAttachedSlot } from './attached-slot.ts';
import type { Attachment } from './attachment.ts';
import { ReceiverHold } from './receiver-hold.ts';
import { type UpstreamConnectorOptions, connectUpstream } from './upstream-connector.ts';

export interface UpstreamConnectionsOptions extends UpstreamConnectorOptions {
  config: () => NodeConfig;
  /** Of this node's cluster. */
  systemIdentifier: bigint;
  attachment: Attachment | undefined;
}

export class UpstreamConnections {
  /** Holds the receiver's next round, and its next connection. */
  readonly hold = new ReceiverHold();
  readonly #options: UpstreamConnectionsOptions;
  readonly #roles: AttachedRoles | undefined;

  constructor(options: UpstreamConnectionsOptions) {
    const { attachment } = options;
    this.#options = options;
    this.#roles =
      attachment &&
      new AttachedRoles((role, signal) => attachment.connectReplication(role, signal));
  }

  /** Whether the attached server leads, so that it is the upstream, if any is. */
  get isLeading(): boolean {
    return this.#options.attachment?.server.status.role === 'primary';
  }

  /** Whether there is an upstream that WAL can be asked of. */
  get isAny(): boolean {
    return this.#inForce !== 'configured' || this.#options.config().primaryConninfo !== '';
  }

  /** Whether WAL may come from an archive: a server that leads makes its own. */
  get hasArchive(): boolean {
    return this.#inForce === 'configured' && this.#options.config().restoreCommand !== '';
  }

  /** The slot on the upstream in force; undefined streams without one. */
  get slotName(): string | undefined {
    if (this.isLeading) return ATTACHED_SLOT;
    return this.#options.config().primarySlotName || undefined;
  }

  /**
   * Calls `leave` with the reason when the upstream that primary_conninfo names is in force no
   * more, by a promotion that nobody holds the receiver for; until the result is called.
   */
  onPromotion(leave: (reason: string) => void): () => void {
    const server = this.#options.attachment?.server;
    if (server === undefined) return () => {};
    let wasStandby = server.status.role === 'standby';
    return server.changed.listen(() => {
      const isStandby = server.status.role === 'standby';
      const isLeft = wasStandby && !isStandby && !this.hold.isClosed;
      wasStandby = isStandby;
      if (isLeft) leave('the attached PostgreSQL server is promoted');
    });
  }

  /**
   * A connection for the receiver, to the upstream that is in force: waits for one. Throws what
   * connectUpstream() and AttachedRoles throw.
   */
  async connect(signal: AbortSignal): Promise<ReplicationClient> {
    const server = this.#options.attachment?.server;
    for (;;) {
      await this.hold.pass(signal);
      if (server === undefined || this.#inForce !== undefined) {
        return this.#connect(signal, this.#options.config().linkCompression);
      }
      await this.hold.stand(server.changed, signal);
    }
  }

  /** Whether the server's promotion is under way, ours or behind our back: nothing is to come. */
  get isBeingPromoted(): boolean {
    return this.hold.isClosed || this.#options.attachment?.server.status.role === 'promoting';
  }

  /**
   * A connection for what is passed on, to the cluster whose WAL is here. (PostgreSQL 13 starts no
   * stream before it was asked to identify itself.) Throws 57P03 while no upstream is in force,
   * 55000 if none is configured.
   */
  async connectSameCluster(
    signal: AbortSignal,
    compression: LinkCompression = 'off',
  ): Promise<ReplicationClient> {
    const client = await this.#connect(signal, compression);
    try {
      checkSystemIdentifier(await identifySystem(client), this.#options.systemIdentifier);
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** As connectSameCluster(), for WAL: compressed as the receiver's. */
  connectForOlderWal(signal: AbortSignal): Promise<ReplicationClient> {
    return this.connectSameCluster(signal, this.#options.config().linkCompression);
  }

  /** The attached server has data pages while it runs; else the upstream is asked for them. */
  async connectForBackup(signal: AbortSignal): Promise<ReplicationClient> {
    const { attachment, log } = this.#options;
    const isThere = attachment?.server.status.state === 'ready';
    if (!isThere || this.isLeading) return this.connectSameCluster(signal);
    try {
      return await attachment.connectReplication(this.#user, signal);
    } catch (error) {
      signal.throwIfAborted();
      // Below a relay, which asks for no role, that user need not be one of the server's.
      log.log(`base backup from the upstream: ${asWalcadeError(error).message}`);
      return this.connectSameCluster(signal);
    }
  }

  /**
   * What the attached server, whatever its role is, answers over a connection of its own; rejects
   * with the signal's reason when it aborts.
   */
  async askAttached<T>(
    ask: (client: ReplicationClient) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const client = await this.#connectAttached(signal);
    const abandon = (): void => client.connection.close();
    signal.addEventListener('abort', abandon, { once: true });
    try {
      signal.throwIfAborted();
      return await ask(client);
    } catch (error) {
      signal.throwIfAborted();
      throw error;
    } finally {
      signal.removeEventListener('abort', abandon);
      await client.close();
    }
  }

  #connectAttached(signal: AbortSignal): Promise<ReplicationClient> {
    if (this.#roles === undefined) throw notNow();
    return this.#roles.connect(this.#user, signal);
  }

  async #connect(signal: AbortSignal, compression: LinkCompression): Promise<ReplicationClient> {
    const inForce = this.#inForce;
    if (inForce === undefined) throw notNow();
    if (inForce === 'attached') return this.#connectToLeader(signal);
    const { primaryConninfo } = this.#options.config();
    if (primaryConninfo === '') throw noUpstream();
    return this.connectTo(primaryConninfo, signal, compression);
  }

  /** A connection to whom the conninfo `text` names; throws what connectUpstream() throws. */
  connectTo(
    text: string,
    signal: AbortSignal,
    compression: LinkCompression = 'off',
  ): Promise<ReplicationClient> {
    const { clusterName: applicationName } = this.#options.config();
    return connectUpstream(this.#options, { text, applicationName, compression }, signal);
  }

  /** Its slot is there before it is asked for: it may have been promoted behind our back. */
  async #connectToLeader(signal: AbortSignal): Promise<ReplicationClient> {
    const { attachment } = this.#options;
    assert(attachment !== undefined, 'a server that leads is there');
    const client = await this.#connectAttached(signal);
    try {
      await makeAttachedSlot(client, attachment.dataDirectory);
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  get #inForce(): 'configured' | 'attached' | undefined {
    const { attachment } = this.#options;
    if (attachment === undefined || attachment.server.status.role === 'standby') {
      return 'configured';
    }
    return attachment.server.takesWrites ? 'attached' : undefined;
  }

  get #user(): string {
    const { primaryConninfo: text } = this.#options.config();
    return text === '' ? USUAL_SUPERUSER : parseConninfo(text).user;
  }
}

function noUpstream(): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'this node has no upstream to ask',
    { hint: 'Set primary_conninfo in walcade.conf and reload the node.' },
  );
}

function notNow(): WalcadeError {
  return new WalcadeError(
    SQLSTATE.CANNOT_CONNECT_NOW,
    'the attached PostgreSQL server, which leads, does not accept connections',
  );
}
