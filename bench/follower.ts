/**
 * A process that follows the WAL of two servers and notes when each position arrives: one reader
 * on the reference, which is the primary, and many on the server that is measured.
 *
 *   node --import tsx bench/follower.ts REFERENCE_PORT PORT READERS START END
 *
 * It says "following" once all have received END. Then "begin" on standard input forgets what was
 * noted, and "end" prints a line of JSON, Arrivals; it lives until its standard input closes.
 */
import net from 'node:net';
import { createInterface } from 'node:readline';
import { encodeQuery, encodeTerminate } from '../src/protocol/frontend-messages.ts';
import { type Message, MessageReader } from '../src/protocol/message-reader.ts';
import { BACKEND } from '../src/protocol/message-type.ts';
import {
  REPLICATION_MESSAGE,
  WAL_DATA_HEADER_BYTES,
  decodeKeepalive,
  decodeWalDataHeader,
  encodeStatusUpdate,
} from '../src/protocol/replication-messages.ts';
import { encodeStartup } from '../src/protocol/startup.ts';
import { INVALID_LSN, type Lsn, parseLsn } from '../src/wal/lsn.ts';

/** Of each message of the primary, in milliseconds after the primary sent it. */
export interface Arrivals {
  /** When the reader on the primary had it. */
  atReference: number[];
  /** When the last of the readers had it. */
  atLast: number[];
  /** CPU seconds that this process has used since "begin". */
  cpuSeconds: number;
}

const [referencePort, port, readers, start, end] = process.argv.slice(2);
const caughtUpAt = Number(parseLsn(end ?? ''));

/** PostgreSQL's epoch, 2000-01-01, in milliseconds of Unix time. */
const EPOCH_MS = 946_684_800_000;
const READ_BYTES = 256 * 1024;

/** All connections read into it: what arrives is looked at before the next one reads. */
const buffer = Buffer.allocUnsafeSlow(READ_BYTES);

class Follower {
  /** The ends of the messages that have arrived; with each, when it arrived. */
  ends: number[] = [];
  arrivedMs: number[] = [];
  /** When the sender says that it sent each, in milliseconds after `performance.timeOrigin`. */
  sentMs: number[] = [];
  readonly caughtUp: Promise<void>;
  readonly socket: net.Socket;
  readonly #reader = new MessageReader({ bodyBytesMax: () => 0x3fff_ffff });
  readonly #messages: Message[] = [];
  #isStreaming = false;
  #reached: Lsn = INVALID_LSN;
  #noteCaughtUp = (): void => {};

  constructor(where: string, name: string) {
    this.caughtUp = new Promise((resolve) => {
      this.#noteCaughtUp = resolve;
    });
    const callback = (length: number): boolean => {
      const nowMs = performance.now();
      this.#reader.push(buffer.subarray(0, length), this.#messages);
      for (const message of this.#messages) this.#take(message, nowMs);
      this.#messages.length = 0;
      return true;
    };
    this.socket = net.connect({
      host: '127.0.0.1',
      port: Number(where),
      noDelay: true,
      onread: { buffer, callback },
    });
    this.socket.on('error', (error) => {
      throw error;
    });
    this.socket.on('connect', () => {
      const parameters = { user: 'postgres', replication: 'true', application_name: name };
      this.socket.write(encodeStartup(parameters));
    });
  }

  forget(): void {
    this.ends = [];
    this.arrivedMs = [];
    this.sentMs = [];
  }

  #take({ type, body }: Message, nowMs: number): void {
    if (type === BACKEND.COPY_DATA) this.#takeCopyData(body, nowMs);
    if (type === BACKEND.ERROR_RESPONSE) throw new Error(body.toString('latin1'));
    if (type === BACKEND.READY_FOR_QUERY && !this.#isStreaming) {
      this.#isStreaming = true;
      this.socket.write(encodeQuery(`START_REPLICATION ${start} TIMELINE 1`));
    }
  }

  #takeCopyData(body: Buffer, nowMs: number): void {
    if (body[0] === REPLICATION_MESSAGE.WAL_DATA) {
      const header = decodeWalDataHeader(body);
      this.#reached = (header.start + BigInt(body.length - WAL_DATA_HEADER_BYTES)) as Lsn;
      const reached = Number(this.#reached);
      this.ends.push(reached);
      this.arrivedMs.push(nowMs);
      this.sentMs.push(Number(header.sentAt) / 1000 + EPOCH_MS - performance.timeOrigin);
      if (reached >= caughtUpAt) this.#noteCaughtUp();
    } else if (decodeKeepalive(body).replyRequested) {
      const reached = this.#reached;
      const rest = { apply: INVALID_LSN, sentAt: 0n, replyRequested: false };
      this.socket.write(encodeStatusUpdate({ write: reached, flush: reached, ...rest }));
    }
  }
}

/** When the last of `followers` had reached each of the ends that the reference saw. */
function arrivals(
  reference: Follower,
  followers: readonly Follower[],
): Omit<Arrivals, 'cpuSeconds'> {
  const at = followers.map(() => 0);
  const found: Omit<Arrivals, 'cpuSeconds'> = { atReference: [], atLast: [] };
  for (const [index, position] of reference.ends.entries()) {
    const sentMs = reference.sentMs[index] as number;
    let lastMs = 0;
    for (const [number, follower] of followers.entries()) {
      let next = at[number] as number;
      while ((follower.ends[next] ?? Number.POSITIVE_INFINITY) < position) next++;
      at[number] = next;
      lastMs = Math.max(lastMs, follower.arrivedMs[next] ?? Number.POSITIVE_INFINITY);
    }
    // What the last ones have not received yet is on its way: the load has ended before.
    if (lastMs === Number.POSITIVE_INFINITY) break;
    found.atReference.push((reference.arrivedMs[index] as number) - sentMs);
    found.atLast.push(lastMs - sentMs);
  }
  return found;
}

const reference = new Follower(referencePort ?? '', 'reference');
const followers = Array.from(
  { length: Number(readers) },
  (_, number) => new Follower(port ?? '', `bench${number}`),
);
const all = [reference, ...followers];
let cpu = process.cpuUsage();

const commands = createInterface({ input: process.stdin });
commands.on('line', (command) => {
  const { user, system } = process.cpuUsage(cpu);
  if (command === 'begin') {
    for (const follower of all) follower.forget();
    cpu = process.cpuUsage();
  } else {
    const found: Arrivals = {
      ...arrivals(reference, followers),
      cpuSeconds: (user + system) / 1e6,
    };
    process.stdout.write(`${JSON.stringify(found)}\n`);
  }
});
commands.on('close', () => {
  for (const { socket } of all) socket.end(encodeTerminate());
});
await Promise.all(all.map(({ caughtUp }) => caughtUp));
process.stdout.write('following\n');
