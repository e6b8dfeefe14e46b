/**
 * A client of a test that speaks the protocol by hand on a TCP socket, so that it can say what no
 * PostgreSQL says, and keep silent, or read nothing, for as long as the test wants.
 *
 * It lives in a TestDirectory, which closes it when the test ends. What it hears waits in a queue
 * until it is asked for; with `stopReading` it hears nothing any more.
 */
import { once } from 'node:events';
import { type Socket, connect } from 'node:net';
import { decodeDataRow, decodeRowDescription } from '../../src/protocol/backend-messages.ts';
import { decodeErrorFields } from '../../src/protocol/error-response.ts';
import { encodeQuery } from '../../src/protocol/frontend-messages.ts';
import { type Message, MessageReader } from '../../src/protocol/message-reader.ts';
import { encodeStatusUpdate } from '../../src/protocol/replication-messages.ts';
import { encodeStartup } from '../../src/protocol/startup.ts';
import { INVALID_LSN, type Lsn } from '../../src/wal/lsn.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { type WaitOptions, waitFor } from './wait.ts';

export interface Heard {
  /** The type byte as a letter. */
  readonly type: string;
  readonly body: Buffer;
}

export class RawSession implements Member {
  readonly name: string;
  readonly #socket: Socket;
  readonly #reader = new MessageReader({ bodyBytesMax: () => 0x3fff_ffff });
  readonly #queue: Heard[] = [];
  #unframed: Buffer | undefined = Buffer.alloc(0);
  #hasEnded = false;
  #greeting: Heard[] = [];

  private constructor(socket: Socket, name: string) {
    this.#socket = socket;
    this.name = name;
    socket.setNoDelay(true);
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', () => {});
    socket.on('end', () => (this.#hasEnded = true));
    socket.on('close', () => (this.#hasEnded = true));
  }

  /** A connection on which nothing has been said; what comes back has no frames yet. */
  static async open(tree: TestDirectory, port: number): Promise<RawSession> {
    const socket = connect({ host: '127.0.0.1', port, allowHalfOpen: true });
    await once(socket, 'connect');
    return tree.add(new RawSession(socket, `raw session to port ${port}`));
  }

  /** A replication session that is ready for its first command. */
  static async start(
    tree: TestDirectory,
    port: number,
    parameters: Record<string, string> = {},
  ): Promise<RawSession> {
    const session = await RawSession.open(tree, port);
    session.write(encodeStartup({ user: 'postgres', replication: 'true', ...parameters }));
    session.#greeting = await session.until('Z');
    return session;
  }

  /** What the server said before it was ready for the first command. */
  get greeting(): readonly Heard[] {
    return this.#greeting;
  }

  get hasEnded(): boolean {
    return this.#hasEnded;
  }

  write(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  query(text: string): void {
    this.write(encodeQuery(text));
  }

  /** Says how far it is, in all three positions but replay. */
  report(position: Lsn, { replyRequested = false, sentAt = 0n } = {}): void {
    const positions = { write: position, flush: position, apply: INVALID_LSN };
    this.write(encodeStatusUpdate({ ...positions, sentAt, replyRequested }));
  }

  /** The bytes before the first message, once there are `length` of them. */
  async unframed(length: number): Promise<Buffer> {
    await waitFor(`${length} bytes`, () => (this.#unframed?.length ?? 0) >= length);
    const bytes = this.#unframed ?? Buffer.alloc(0);
    this.#unframed = bytes.subarray(length);
    return bytes.subarray(0, length);
  }

  /** The next message; undefined when the other side has closed instead. */
  async next(options: WaitOptions = {}): Promise<Heard | undefined> {
    this.#beginFrames();
    await waitFor('a message or the end', () => this.#queue.length > 0 || this.#hasEnded, options);
    return this.#queue.shift();
  }

  /** What comes up to the first message of one of the `types`, or up to the end. */
  async until(...types: string[]): Promise<Heard[]> {
    const heard: Heard[] = [];
    for (;;) {
      const message = await this.next();
      if (message === undefined) return heard;
      heard.push(message);
      if (types.includes(message.type)) return heard;
    }
  }

  /** The answer to a command, as lines that a test can compare. */
  async answer(text: string): Promise<string[]> {
    this.query(text);
    return (await this.until('Z', 'W')).map(describeHeard);
  }

  async waitForEnd(options: WaitOptions = {}): Promise<void> {
    await waitFor('the other side to close', () => this.#hasEnded, options);
  }

  /** From now on nothing is taken from the network. */
  stopReading(): void {
    this.#socket.pause();
  }

  startReading(): void {
    this.#socket.resume();
  }

  /** Closes this side's half: the other side sees the end of what it is told. */
  finish(): void {
    this.#socket.end();
  }

  async end(): Promise<void> {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    if (this.#unframed === undefined) this.#frame(chunk);
    else this.#unframed = Buffer.concat([this.#unframed, chunk]);
  }

  #beginFrames(): void {
    const bytes = this.#unframed;
    this.#unframed = undefined;
    if (bytes !== undefined) this.#frame(bytes);
  }

  #frame(chunk: Buffer): void {
    const messages: Message[] = [];
    this.#reader.push(chunk, messages);
    for (const { type, body } of messages) {
      this.#queue.push({ type: String.fromCharCode(type), body });
    }
  }
}

/** A message as a line: `C IDENTIFY_SYSTEM`, `D 7…|1|0/3000000|`, `E ERROR 42601 syntax error`. */
export function describeHeard({ type, body }: Heard): string {
  switch (type) {
    case 'T':
      return `T ${decodeRowDescription(body)
        .map(({ name, typeOid }) => `${name}:${typeOid}`)
        .join('|')}`;
    case 'D':
      return `D ${decodeDataRow(body)
        .map((value) => value?.toString() ?? 'NULL')
        .join('|')}`;
    case 'E':
    case 'N': {
      const { severity, sqlstate, message } = decodeErrorFields(body);
      return `${type} ${severity} ${sqlstate} ${message}`;
    }
    case 'C':
    case 'Z':
      return `${type} ${body.toString().replace(/\0$/, '')}`;
    case 'd':
      return `d ${String.fromCharCode(body[0] ?? 0)}`;
    default:
      return type;
  }
}
