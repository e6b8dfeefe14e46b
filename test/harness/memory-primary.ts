/**
 * A primary in memory, for the WAL receiver: connections that answer what a node asks of an
 * upstream as the test's script says, and then stream what the test says. It lives as long as the
 * test; no port, no file, time only by its clock.
 */
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError } from '../../src/base/errors.ts';
import {
  encodeCommandComplete,
  encodeCopyBothResponse,
  encodeDataRow,
  encodeReadyForQuery,
  encodeRowDescription,
} from '../../src/protocol/backend-messages.ts';
import { ReplicationClient } from '../../src/protocol/client.ts';
import { encodeErrorResponse } from '../../src/protocol/error-response.ts';
import { decodeQuery } from '../../src/protocol/frontend-messages.ts';
import { MessageReader, type Message } from '../../src/protocol/message-reader.ts';
import { encodeWalDataFrame } from '../../src/protocol/replication-messages.ts';
import { type Lsn, formatLsn } from '../../src/wal/lsn.ts';
import { duplexPair } from './duplex-pair.ts';
import { ManualClock, settle } from './manual-clock.ts';
import { WELCOME } from './memory-upstream.ts';
import { CLUSTER } from './wal-walks.ts';

export interface MemoryPrimaryScript {
  timeline: number;
  walEnd: Lsn;
  /** The history files it has. */
  histories: Record<number, string>;
}

const SETTINGS: Record<string, string> = { server_version_num: '180004', wal_segment_size: '1MB' };

export class MemoryPrimary {
  readonly clock = new ManualClock();
  readonly script: MemoryPrimaryScript;
  /** The commands of all connections. */
  readonly commands: string[] = [];
  #connections = 0;
  #socket: Duplex | undefined;

  constructor(script: MemoryPrimaryScript) {
    this.script = script;
  }

  get connections(): number {
    return this.#connections;
  }

  /** Commands that begin with `start`. */
  asked(start: string): string[] {
    return this.commands.filter((command) => command.startsWith(start));
  }

  connect(signal: AbortSignal): Promise<ReplicationClient> {
    return ReplicationClient.connect({
      network: {
        connect: () => Promise.resolve(this.#accept()),
        listen: () => Promise.reject(new Error('nobody listens here')),
        resolve: () => Promise.reject(new Error('nobody asks for names here')),
      },
      clock: this.clock,
      addresses: [{ host: 'primary', port: 5432 }],
      user: 'postgres',
      password: () => undefined,
      allowsAuthentication: () => true,
      sessionAttributes: 'any',
      parameters: { replication: 'true' },
      connectTimeoutMs: 10_000,
      signal,
    });
  }

  /** Says something on the newest connection. */
  async say(...messages: Uint8Array[]): Promise<void> {
    for (const each of messages) this.#socket?.write(each);
    await settle();
  }

  async sendWal(start: Lsn, wal: Buffer, walEnd: Lsn): Promise<void> {
    await this.say(encodeWalDataFrame({ start, walEnd, sentAt: 1n }, wal.length), wal);
  }

  hangUp(): void {
    this.#socket?.end();
  }

  #accept(): Duplex {
    const [near, far] = duplexPair();
    for (const end of [near, far]) end.on('error', () => {});
    this.#connections += 1;
    this.#socket = far;
    const reader = new MessageReader({ bodyBytesMax: () => 1_000_000 });
    far.once('data', () => {
      far.on('data', (chunk: Buffer) => {
        const messages: Message[] = [];
        reader.push(chunk, messages);
        for (const { type, body } of messages) {
          if (type === 'Q'.charCodeAt(0)) this.#answer(far, decodeQuery(body));
        }
      });
      for (const each of WELCOME) far.write(each);
    });
    return near;
  }

  #answer(socket: Duplex, command: string): void {
    this.commands.push(command);
    if (command.startsWith('START_REPLICATION')) return void socket.write(encodeCopyBothResponse());
    for (const each of this.#reply(command)) socket.write(each);
    socket.write(encodeReadyForQuery());
  }

  #reply(command: string): Buffer[] {
    const { timeline, walEnd, histories } = this.script;
    if (command === 'IDENTIFY_SYSTEM') {
      return row([CLUSTER.toString(), timeline.toString(), formatLsn(walEnd), null]);
    }
    const [verb, name = ''] = command.split(' ');
    if (verb === 'TIMELINE_HISTORY') {
      const content = histories[Number(name)];
      const path = `pg_wal/${name.padStart(8, '0')}.history`;
      if (content !== undefined) return row([`${name.padStart(8, '0')}.history`, content]);
      const message = `could not open file "${path}": No such file or directory`;
      return [refusal(SQLSTATE.UNDEFINED_FILE, message)];
    }
    const value = SETTINGS[name];
    if (value !== undefined) return row([value]);
    return [refusal(SQLSTATE.UNDEFINED_OBJECT, `no parameter "${name}"`)];
  }
}

function row(values: (string | null)[]): Buffer[] {
  const columns = values.map((_, index) => ({ name: `column${index}`, typeOid: 25 }));
  return [encodeRowDescription(columns), encodeDataRow(values), encodeCommandComplete('DONE')];
}

function refusal(sqlstate: string, message: string): Buffer {
  return encodeErrorResponse(new WalcadeError(sqlstate, message), 'ERROR');
}
