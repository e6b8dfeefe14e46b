/**
 * An upstream in memory, for the client side of the protocol: a Network whose connections end at
 * the test, which says each message itself and sees the bytes that come.
 */
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError } from '../../src/base/errors.ts';
import {
  encodeAuthentication,
  encodeBackendKeyData,
  encodeParameterStatus,
  encodeReadyForQuery,
} from '../../src/protocol/backend-messages.ts';
import { type ClientOptions, ReplicationClient } from '../../src/protocol/client.ts';
import type { Network } from '../../src/protocol/network.ts';
import { duplexPair } from './duplex-pair.ts';
import { ManualClock, settle } from './manual-clock.ts';

export const WELCOME: readonly Buffer[] = [
  encodeAuthentication({ kind: 'ok' }),
  encodeParameterStatus('server_version', '18.4'),
  encodeParameterStatus('in_hot_standby', 'off'),
  encodeBackendKeyData(7, Buffer.from('key!')),
  encodeReadyForQuery(),
];

export class MemoryUpstream {
  readonly clock = new ManualClock();
  /** Hosts that refuse the connection. */
  readonly deadHosts = new Set<string>();
  /** The hosts that were connected to, in order. */
  readonly hosts: string[] = [];
  #socket: Duplex | undefined;
  #heard = Buffer.alloc(0);

  readonly network: Network = {
    connect: (address) => {
      this.hosts.push(address.host);
      if (this.deadHosts.has(address.host)) {
        return Promise.reject(
          new WalcadeError(SQLSTATE.UNABLE_TO_CONNECT, `connection to server ${address.host}`),
        );
      }
      const [near, far] = duplexPair();
      for (const end of [near, far]) end.on('error', () => {});
      far.on('data', (chunk: Buffer) => {
        this.#heard = Buffer.concat([this.#heard, chunk]);
      });
      this.#socket = far;
      return Promise.resolve(near);
    },
    listen: () => Promise.reject(new Error('nobody listens here')),
    resolve: () => Promise.reject(new Error('nobody asks for names here')),
  };

  /** Begins to connect; the test says what the server says. */
  begin(options: Partial<ClientOptions> = {}): Promise<ReplicationClient> {
    return ReplicationClient.connect({
      network: this.network,
      clock: this.clock,
      addresses: [{ host: 'one', port: 5432 }],
      user: 'postgres',
      password: () => 'secret',
      allowsAuthentication: () => true,
      sessionAttributes: 'any',
      parameters: { replication: 'true' },
      connectTimeoutMs: 10_000,
      signal: new AbortController().signal,
      ...options,
    });
  }

  /** A session that is let in. */
  async connect(options: Partial<ClientOptions> = {}): Promise<ReplicationClient> {
    const connecting = this.begin(options);
    await settle();
    await this.say(...WELCOME);
    this.heard();
    return connecting;
  }

  async say(...messages: Uint8Array[]): Promise<void> {
    for (const each of messages) this.#socket?.write(each);
    await settle();
  }

  /** What has come since the last look. */
  heard(): Buffer {
    const bytes = this.#heard;
    this.#heard = Buffer.alloc(0);
    return bytes;
  }

  hangUp(): void {
    this.#socket?.end();
  }
}
