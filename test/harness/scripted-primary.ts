/**
 * A primary of a test that is none: it answers what a node asks of an upstream, and then lets the
 * test say, message by message, what a WAL sender says, and look at what it hears.
 *
 * It lives in a TestDirectory. One stream at a time; connections that only ask are served aside.
 */
import { once } from 'node:events';
import { type Server, type Socket, createServer } from 'node:net';
import {
  encodeAuthentication,
  encodeBackendKeyData,
  encodeCommandComplete,
  encodeCopyBothResponse,
  encodeDataRow,
  encodeParameterStatus,
  encodeReadyForQuery,
  encodeRowDescription,
} from '../../src/protocol/backend-messages.ts';
import { SQLSTATE, WalcadeError } from '../../src/base/errors.ts';
import { encodeErrorResponse } from '../../src/protocol/error-response.ts';
import { FirstPackets } from '../../src/protocol/first-packets.ts';
import { decodeQuery } from '../../src/protocol/frontend-messages.ts';
import { type Message, MessageReader } from '../../src/protocol/message-reader.ts';
import { encodeKeepalive, encodeWalDataFrame } from '../../src/protocol/replication-messages.ts';
import { parseStartupPacket } from '../../src/protocol/startup.ts';
import { type Lsn, formatLsn } from '../../src/wal/lsn.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { waitFor } from './wait.ts';

export interface PrimaryScript {
  systemIdentifier: bigint;
  /** What IDENTIFY_SYSTEM says; the test may change it. */
  walEnd: Lsn;
  /** Commands that begin with one of these get no answer at all. */
  silentTo?: readonly string[];
}

const SETTINGS: Record<string, string> = {
  server_version: '16.4',
  server_version_num: '160004',
  wal_segment_size: '1MB',
  wal_level: 'replica',
};

export class ScriptedPrimary implements Member {
  readonly name = 'scripted primary';
  readonly script: PrimaryScript;
  /** What came inside CopyData since the stream began, each with the time of its arrival. */
  readonly heard: { body: Buffer; atMs: number }[] = [];
  /** The commands of all connections. */
  readonly commands: string[] = [];
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #port = 0;
  #stream: Socket | undefined;
  #streams = 0;

  private constructor(script: PrimaryScript) {
    this.script = script;
    this.#server = createServer({ noDelay: true }, (socket) => void this.#serve(socket));
  }

  static async listen(tree: TestDirectory, script: PrimaryScript): Promise<ScriptedPrimary> {
    const primary = new ScriptedPrimary(script);
    primary.#port = await tree.reservePort();
    primary.#server.listen(primary.#port, '127.0.0.1');
    await once(primary.#server, 'listening');
    return tree.add(primary);
  }

  get conninfo(): string {
    return `host=127.0.0.1 port=${this.#port} user=postgres`;
  }

  /** How many streams have begun. */
  get streams(): number {
    return this.#streams;
  }

  async waitForStream(number = 1): Promise<void> {
    await waitFor(`stream ${number}`, () => this.#streams >= number);
  }

  /** Waits until something of type `type` was heard after the first `after` messages. */
  async waitForHeard(type: string, after = 0): Promise<{ body: Buffer; atMs: number }> {
    const isIt = ({ body }: { body: Buffer }): boolean => body[0] === type.charCodeAt(0);
    return waitFor(`message "${type}"`, () => this.heard.slice(after).find(isIt));
  }

  sendWal(start: Lsn, wal: Buffer, walEnd: Lsn): void {
    this.#stream?.write(encodeWalDataFrame({ start, walEnd, sentAt: 1n }, wal.length));
    this.#stream?.write(wal);
  }

  sendKeepalive(walEnd: Lsn, { replyRequested }: { replyRequested: boolean }): void {
    this.#stream?.write(encodeKeepalive({ walEnd, sentAt: 1n, replyRequested }));
  }

  async end(): Promise<void> {
    if (!this.#server.listening) return;
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  async #serve(socket: Socket): Promise<void> {
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
    const packets = new FirstPackets(socket);
    const packet = parseStartupPacket(await packets.read());
    if (packet.kind !== 'startup') return void socket.destroy();
    const reader = new MessageReader({ bodyBytesMax: () => 1_000_000 });
    const take = (chunk: Buffer): void => {
      const messages: Message[] = [];
      reader.push(chunk, messages);
      for (const message of messages) this.#answer(socket, message);
    };
    take(packets.release());
    socket.on('data', take);
    socket.resume();
    const parameters = { ...SETTINGS, server_encoding: 'UTF8', integer_datetimes: 'on' };
    socket.write(encodeAuthentication({ kind: 'ok' }));
    for (const [name, value] of Object.entries(parameters)) {
      socket.write(encodeParameterStatus(name, value));
    }
    socket.write(encodeBackendKeyData(1, Buffer.alloc(4)));
    socket.write(encodeReadyForQuery());
  }

  #answer(socket: Socket, { type, body }: Message): void {
    const letter = String.fromCharCode(type);
    if (letter === 'd') this.heard.push({ body: Buffer.from(body), atMs: performance.now() });
    if (letter !== 'Q') return;
    const command = decodeQuery(body);
    this.commands.push(command);
    if (this.script.silentTo?.some((start) => command.startsWith(start))) return;
    const { systemIdentifier, walEnd } = this.script;
    if (command === 'IDENTIFY_SYSTEM') {
      const row = [systemIdentifier.toString(), '1', formatLsn(walEnd), null];
      return answerRow(socket, ['systemid', 'timeline', 'xlogpos', 'dbname'], row);
    }
    if (command.startsWith('START_REPLICATION')) {
      this.#stream = socket;
      this.#streams += 1;
      this.heard.length = 0;
      socket.write(encodeCopyBothResponse());
      return;
    }
    const name = command.replace(/^SHOW /, '');
    const value = SETTINGS[name];
    if (value !== undefined) return answerRow(socket, [name], [value]);
    const refusal = new WalcadeError(SQLSTATE.UNDEFINED_OBJECT, `no parameter "${name}"`);
    socket.write(encodeErrorResponse(refusal, 'ERROR'));
    socket.write(encodeReadyForQuery());
  }
}

function answerRow(socket: Socket, columns: string[], row: (string | null)[]): void {
  socket.write(encodeRowDescription(columns.map((name) => ({ name, typeOid: 25 }))));
  socket.write(encodeDataRow(row));
  socket.write(encodeCommandComplete('DONE'));
  socket.write(encodeReadyForQuery());
}
