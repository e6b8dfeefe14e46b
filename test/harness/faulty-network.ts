/**
 * A network between two servers that a test breaks at will: a TCP proxy that delays, throttles,
 * chops, freezes, swallows and resets, and that can cut WalData messages at random places.
 *
 * It listens from `between` until its test ends. Faults may change at any time and hold for the
 * connections there are as for new ones; only `onCopyData` is settled when a connection is made.
 */
import { once } from 'node:events';
import { type AddressInfo, type Server, type Socket, connect, createServer } from 'node:net';
import { setImmediate as turnOfEventLoop, setTimeout as sleep } from 'node:timers/promises';
import type { Member, TestDirectory } from './test-directory.ts';
import { type RandomNumber, WalRecutter, seededRandom } from './wal-recutter.ts';

export interface Faults {
  /** Added to the way of every byte, in each direction. */
  delayMs: number;
  /** For each connection and direction; 0 is no limit. */
  bytesPerSecond: number;
  /** How bytes are handed on: as they come, one at a time, or in pieces of random size. */
  pieces: 'whole' | 'single-bytes' | 'random';
  /** What happens to the WalData messages of the upstream. */
  onCopyData: 'pass' | 'recut';
}

const NO_FAULTS: Faults = { delayMs: 0, bytesPerSecond: 0, pieces: 'whole', onCopyData: 'pass' };
const RANDOM_PIECE_BYTES_MAX = 3_000;
const RECUT_PAUSE_MS_MAX = 3;
const QUEUED_BYTES_MAX = 1024 * 1024;
const PAUSE_POLL_MS = 5;
const WRITES_PER_TURN = 16;
const ZSTD_MAGIC = Buffer.from('28b52ffd', 'hex');
const CORRUPTED_BYTES_MAX = 400;

export interface FaultyNetworkOptions extends Partial<Faults> {
  name?: string;
  upstreamHost?: string;
  /** Makes random cuts repeatable. */
  seed?: number;
}

export class FaultyNetwork implements Member {
  readonly name: string;
  readonly seed: number;
  readonly #listener: Server;
  readonly #upstream: { port: number; host: string };
  readonly #sockets = new Set<Socket>();
  readonly #random: RandomNumber;
  #faults: Faults;
  #isPaused = false;
  #isCut = false;
  readonly #unanswered: Socket[] = [];
  #port = 0;
  #connectionCount = 0;
  #closed = false;
  #writes = 0;
  #upstreamBytes = 0;
  #framesToCorrupt = 0;

  private constructor(upstreamPort: number, options: FaultyNetworkOptions) {
    const { name, upstreamHost = '127.0.0.1', seed = Date.now() % 1_000_000, ...faults } = options;
    this.name = name ?? `network to port ${upstreamPort}, seed ${seed}`;
    this.seed = seed;
    this.#random = seededRandom(seed);
    this.#upstream = { port: upstreamPort, host: upstreamHost };
    this.#faults = { ...NO_FAULTS, ...faults };
    this.#listener = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
  }

  /** A network in front of `upstreamPort`, at `port` on 127.0.0.1. */
  static async between(
    tree: TestDirectory,
    upstreamPort: number,
    options: FaultyNetworkOptions = {},
  ): Promise<FaultyNetwork> {
    const network = new FaultyNetwork(upstreamPort, options);
    network.#listener.listen(await tree.reservePort(), '127.0.0.1');
    await once(network.#listener, 'listening');
    network.#port = (network.#listener.address() as AddressInfo).port;
    return tree.add(network);
  }

  get port(): number {
    return this.#port;
  }

  /** Without TLS and Kerberos, which would hide the messages from `onCopyData`. */
  get conninfo(): string {
    return `host=127.0.0.1 port=${this.port} user=postgres sslmode=disable gssencmode=disable`;
  }

  /** How many connections have been made so far. */
  get connectionCount(): number {
    return this.#connectionCount;
  }

  /** How many bytes have come from the upstream so far. */
  get upstreamBytes(): number {
    return this.#upstreamBytes;
  }

  /** How many zstd frames are still to be corrupted. */
  get framesToCorrupt(): number {
    return this.#framesToCorrupt;
  }

  /** Changes a byte in each of the next zstd frames of the upstream. */
  corruptFrames(count: number): void {
    this.#framesToCorrupt = count;
  }

  /** Sets the faults named; the others stay. */
  setFaults(faults: Partial<Faults>): void {
    this.#faults = { ...this.#faults, ...faults };
  }

  /** Nothing moves until `resume`: both ends see a peer that says nothing and reads nothing. */
  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
  }

  /**
   * From now on everything sent is lost and nobody is told, as if a cable were cut. What is set
   * up now stays dead after `mend`, as some of its bytes are gone; what is set up meanwhile gets
   * no answer until then.
   */
  cutSilently(): void {
    this.#isCut = true;
    for (const socket of this.#sockets) deaf.add(socket);
  }

  mend(): void {
    this.#isCut = false;
    for (const downstream of this.#unanswered.splice(0)) this.#join(downstream);
  }

  /** Resets every connection, as a firewall or a crashed machine does. */
  resetAll(): void {
    for (const socket of this.#sockets) reset(socket);
  }

  async end(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const closed = once(this.#listener, 'close');
    this.#listener.close();
    this.resetAll();
    await closed;
  }

  #accept(downstream: Socket): void {
    this.#connectionCount += 1;
    this.#watch(downstream);
    if (this.#isCut) this.#unanswered.push(downstream);
    else this.#join(downstream);
  }

  #watch(socket: Socket): void {
    socket.setNoDelay(true);
    socket.on('error', () => {});
    socket.on('close', () => this.#sockets.delete(socket));
    this.#sockets.add(socket);
  }

  /** Connects `downstream` to the upstream and carries both directions. */
  #join(downstream: Socket): void {
    if (downstream.destroyed) return;
    const upstream = connect({ ...this.#upstream, allowHalfOpen: true });
    this.#watch(upstream);
    for (const [socket, other] of [
      [downstream, upstream],
      [upstream, downstream],
    ] as const) {
      socket.on('close', (hadError) => {
        if (hadError && !deaf.has(socket)) reset(other);
      });
    }
    const recutter =
      this.#faults.onCopyData === 'recut' ? new WalRecutter(this.#random) : undefined;
    void this.#carry(downstream, upstream, (chunk) => [chunk]);
    const take = (chunk: Buffer): Buffer[] => {
      this.#upstreamBytes += chunk.length;
      this.#corrupt(chunk);
      return recutter?.push(chunk) ?? [chunk];
    };
    void this.#carry(upstream, downstream, take, {
      pauseMsMax: recutter === undefined ? 0 : RECUT_PAUSE_MS_MAX,
    });
  }

  /** Changes one byte of a frame, anywhere from its header on, at most one in each chunk. */
  #corrupt(chunk: Buffer): void {
    if (this.#framesToCorrupt === 0) return;
    const at = chunk.indexOf(ZSTD_MAGIC);
    const reach = Math.min(chunk.length - at, CORRUPTED_BYTES_MAX);
    if (at < 0 || reach <= ZSTD_MAGIC.length) return;
    const victim = at + Math.floor(this.#random() * reach);
    chunk.writeUInt8(chunk.readUInt8(victim) ^ (1 << Math.floor(this.#random() * 8)), victim);
    this.#framesToCorrupt -= 1;
  }

  /** Carries all bytes of one direction, then its end, until either socket closes. */
  async #carry(
    from: Socket,
    to: Socket,
    transform: (chunk: Buffer) => Buffer[],
    { pauseMsMax = 0 }: { pauseMsMax?: number } = {},
  ): Promise<void> {
    const queue = new ByteQueue();
    from.on('data', (chunk: Buffer) => {
      queue.put(performance.now(), chunk);
      if (queue.bytes > QUEUED_BYTES_MAX) from.pause();
    });
    from.on('end', () => queue.finish());
    from.on('close', () => queue.finish());
    for (;;) {
      const next = await queue.take();
      if (next === undefined) break;
      from.resume();
      await this.#arrival(next.readAt, to);
      for (const part of transform(next.chunk)) {
        for (const piece of this.#pieces(part)) {
          if (deaf.has(from)) continue;
          await this.#deliver(piece, to);
        }
        if (pauseMsMax > 0) await sleep(this.#random() * pauseMsMax);
      }
    }
    if (!deaf.has(from)) to.end();
  }

  /** Waits out the delay, and any pause. */
  async #arrival(readAt: number, to: Socket): Promise<void> {
    const dueIn = readAt + this.#faults.delayMs - performance.now();
    if (dueIn > 0) await sleep(dueIn);
    while (this.#isPaused && !to.destroyed) await sleep(PAUSE_POLL_MS);
  }

  async #deliver(piece: Buffer, to: Socket): Promise<void> {
    while (this.#isPaused && !to.destroyed) await sleep(PAUSE_POLL_MS);
    if (to.destroyed) return;
    await new Promise<void>((resolve) => to.write(piece, () => resolve()));
    // A write that the system takes at once ends before the event loop turns: let others run.
    this.#writes += 1;
    if (this.#writes % WRITES_PER_TURN === 0) await turnOfEventLoop();
    const { bytesPerSecond } = this.#faults;
    if (bytesPerSecond > 0) await sleep((piece.length / bytesPerSecond) * 1000);
  }

  *#pieces(bytes: Buffer): Generator<Buffer> {
    const { pieces, bytesPerSecond } = this.#faults;
    // A throttled connection is to flow evenly: at most a tenth of a second's worth at once.
    const evenly = bytesPerSecond > 0 ? Math.max(1, Math.ceil(bytesPerSecond / 10)) : Infinity;
    for (let from = 0; from < bytes.length; ) {
      let length = evenly;
      if (pieces === 'single-bytes') length = 1;
      if (pieces === 'random') length = 1 + Math.floor(this.#random() * RANDOM_PIECE_BYTES_MAX);
      const to = Math.min(bytes.length, from + Math.min(length, evenly));
      yield bytes.subarray(from, to);
      from = to;
    }
  }
}

/** A reset is refused, and the socket left open, while a shutdown of it is under way (libuv). */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

/** Sockets whose connection was cut silently. */
const deaf = new WeakSet<Socket>();

/** Chunks in order, with the time of their arrival; taken by one, until it is finished. */
class ByteQueue {
  readonly #chunks: { readAt: number; chunk: Buffer }[] = [];
  #bytes = 0;
  #isFinished = false;
  #wake: () => void = () => {};

  get bytes(): number {
    return this.#bytes;
  }

  put(readAt: number, chunk: Buffer): void {
    this.#chunks.push({ readAt, chunk });
    this.#bytes += chunk.length;
    this.#wake();
  }

  finish(): void {
    this.#isFinished = true;
    this.#wake();
  }

  async take(): Promise<{ readAt: number; chunk: Buffer } | undefined> {
    while (this.#chunks.length === 0 && !this.#isFinished) {
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const next = this.#chunks.shift();
    this.#bytes -= next?.chunk.length ?? 0;
    return next;
  }
}
