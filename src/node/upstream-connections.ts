/**
 * The connections that a running node makes for WAL and for base backups: to the upstream that its
 * configuration names at that moment, or to its attached server.
 */
import { asWalcadeError } from '../base/errors.ts';
import { parseConninfo } from '../config/conninfo.ts';
import type { NodeConfig } from '../config/parameters.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { checkSystemIdentifier, identifySystem } from '../receiver/upstream-identity.ts';
import type { Attachment } from './attachment.ts';
import { type UpstreamConnectorOptions, connectUpstream } from './upstream-connector.ts';

export interface UpstreamConnectionsOptions extends UpstreamConnectorOptions {
  config: () => NodeConfig;
  /** Of this node's cluster. */
  systemIdentifier: bigint;
  attachment: Attachment | undefined;
}

export class UpstreamConnections {
  readonly #options: UpstreamConnectionsOptions;

  constructor(options: UpstreamConnectionsOptions) {
    this.#options = options;
  }

  /** A connection to whatever the upstream is; throws what connectUpstream() throws. */
  connect(signal: AbortSignal): Promise<ReplicationClient> {
    const { config, ...doors } = this.#options;
    const { primaryConninfo: text, clusterName: applicationName } = config();
    return connectUpstream(doors, { text, applicationName }, signal);
  }

  /**
   * A connection for what is passed on, to the cluster whose WAL is here. (PostgreSQL 13 starts no
   * stream before it was asked to identify itself.)
   */
  async connectSameCluster(signal: AbortSignal): Promise<ReplicationClient> {
    const client = await this.connect(signal);
    try {
      checkSystemIdentifier(await identifySystem(client), this.#options.systemIdentifier);
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** The attached server has data pages while it runs; else the upstream is asked for them. */
  async connectForBackup(signal: AbortSignal): Promise<ReplicationClient> {
    const { attachment, config, log } = this.#options;
    if (attachment?.server.status.state !== 'ready') return this.connectSameCluster(signal);
    const { user } = parseConninfo(config().primaryConninfo);
    try {
      return await attachment.connectForBackup(user, signal);
    } catch (error) {
      signal.throwIfAborted();
      // Below a relay, which asks for no role, that user need not be one of the server's.
      log.log(`base backup from the upstream: ${asWalcadeError(error).message}`);
      return this.connectSameCluster(signal);
    }
  }
}
