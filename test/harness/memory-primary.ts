/**
 * A primary in memory, for the WAL receiver and for who makes a node: connections that answer what
 * a node asks of an upstream as the test's script says, and then stream what the test says. It
 * lives as long as the test; no port, no file, time only by its clock.
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
import type { Network } from '../../src/protocol/network.ts';
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

/** What becomes of a command: the connection may be lost before it is carried out, or after. */
export type Fate = 'answered' | 'unanswered' | 'lost-before' | 'lost-after';

export class MemoryPrimary {
  readonly clock = new ManualClock();
  readonly script: MemoryPrimaryScript;
  /** What SHOW answers. */
  readonly settings: Record<string, string> = {
    server_version_num: '180004',
    wal_segment_size: '1MB',
  };
  readonly slots = new Set<string>();
  /** Says what becomes of a command. */
  fateOf: (command: string) => Fate = () => 'answered';
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

  readonly network: Network = {
    connect: () => Promise.resolve(this.#accept()),
    listen: () => Promise.reject(new Error('nobody listens here')),
    resolve: () => Promise.reject(new Error('nobody asks for names here')),
  };

  connect(signal: AbortSignal): Promise<ReplicationClient> {
    return ReplicationClient.connect({
      network: this.network,
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
    const fate = this.fateOf(command);
    if (fate === 'unanswered') return;
    if (fate === 'lost-before') return void socket.end();
    if (command.startsWith('START_REPLICATION')) return void socket.write(encodeCopyBothResponse());
    const reply = this.#reply(command);
    if (fate === 'lost-after') return void socket.end();
    for (const each of reply) socket.write(each);
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
    if (verb?.endsWith('_REPLICATION_SLOT'))
      return this.#replyOnSlot(verb, name.replaceAll('"', ''));
    const value = this.settings[name];
    if (value !== undefined) return row([value]);
    return [refusal(SQLSTATE.UNDEFINED_OBJECT, `no parameter "${name}"`)];
  }

  #replyOnSlot(verb: string, name: string): Buffer[] {
    const isThere = this.slots.has(name);
    const text = `replication slot "${name}"`;
    if (verb === 'READ_REPLICATION_SLOT') {
      return row(isThere ? ['physical', formatLsn(this.script.walEnd), '1'] : [null, null, null]);
    }
    if (verb === 'CREATE_REPLICATION_SLOT') {
      if (isThere) return [refusal(SQLSTATE.DUPLICATE_OBJECT, `${text} already exists`)];
      this.slots.add(name);
      return row([name, '0/0', null, null]);
    }
    if (!isThere) return [refusal(SQLSTATE.UNDEFINED_OBJECT, `${text} does not exist`)];
    this.slots.delete(name);
    return [encodeCommandComplete('DROP_REPLICATION_SLOT')];
  }
}

function row(values: (string | null)[]): Buffer[] {
  const columns = values.map((_, index) => ({ name: `column${index}`, typeOid: 25 }));
  return [encodeRowDescription(columns), encodeDataRow(values), encodeCommandComplete('DONE')];
}

function refusal(sqlstate: string, message: string): Buffer {
  return encodeErrorResponse(new WalcadeError(sqlstate, message), 'ERROR');
}
