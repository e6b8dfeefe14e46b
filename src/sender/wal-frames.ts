/**
 * The zstd frames of WAL that is being sent: made once for all downstreams that are sent the same
 * range, long ones off the main thread where the library can. It lives as long as the node.
 *
 * At most IN_FLIGHT_MAX are being made at once: the same few threads write WAL and sync it. What
 * was made is kept while it is among the newest KEPT_BYTES_MAX.
 */
import type { Zstd } from '../protocol/zstd.ts';
import type { Lsn } from '../wal/lsn.ts';
import {
  COMPRESSIBLE,
  type Compressibility,
  afterFrame,
  afterRaw,
  isMadeAtOnce,
  isWorthSending,
  isWorthTrying,
} from './frame-choice.ts';

const KEPT_BYTES_MAX = 4 * 1024 * 1024;
const KEPT_OVERHEAD_BYTES = 500;
const IN_FLIGHT_MAX = 2;

/** A range of WAL as it is to be sent. */
export interface FrameRequest {
  zstd: Zstd;
  /** The timeline whose history the range is of; undefined if it is this downstream's alone. */
  timeline: number | undefined;
  start: Lsn;
  bytes: Uint8Array;
  level: number;
}

interface KeptFrame {
  frame: Buffer | undefined;
  bytes: number;
}

export class WalFrames {
  readonly #kept = new Map<string, KeptFrame | Promise<Buffer | undefined>>();
  readonly #waiting: (() => void)[] = [];
  #keptBytes = 0;
  #inFlight = 0;
  #known: Compressibility = COMPRESSIBLE;

  /** The frame of a range, at whatever level; undefined if it is to be sent as it is. */
  async frame(request: FrameRequest): Promise<Buffer | undefined> {
    const { timeline, start, bytes } = request;
    if (timeline === undefined) return this.#make(request);
    const key = `${timeline}/${start}+${bytes.length}`;
    const found = this.#kept.get(key);
    if (found !== undefined) return found instanceof Promise ? found : found.frame;
    const making = this.#make(request);
    this.#kept.set(key, making);
    try {
      const frame = await making;
      this.#keep(key, frame);
      return frame;
    } catch (error) {
      this.#kept.delete(key);
      throw error;
    }
  }

  #keep(key: string, frame: Buffer | undefined): void {
    const bytes = (frame?.length ?? 0) + KEPT_OVERHEAD_BYTES;
    // At the end: the first of a Map is the one that was put there longest ago.
    this.#kept.delete(key);
    this.#kept.set(key, { frame, bytes });
    this.#keptBytes += bytes;
    for (const [oldest, kept] of this.#kept) {
      if (this.#keptBytes <= KEPT_BYTES_MAX) return;
      if (kept instanceof Promise) continue;
      this.#kept.delete(oldest);
      this.#keptBytes -= kept.bytes;
    }
  }

  async #make({ zstd, bytes, level }: FrameRequest): Promise<Buffer | undefined> {
    const walBytes = bytes.length;
    if (!isWorthTrying(this.#known, walBytes)) {
      this.#known = afterRaw(this.#known, walBytes);
      return undefined;
    }
    const frame = isMadeAtOnce(walBytes)
      ? zstd.compressNow(bytes, level)
      : await this.#inTurn(() => zstd.compress(bytes, level));
    const sizes = { walBytes, frameBytes: frame.length };
    this.#known = afterFrame(this.#known, sizes);
    return isWorthSending(sizes) ? frame : undefined;
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#inFlight < IN_FLIGHT_MAX) this.#inFlight++;
    else await new Promise<void>((resolve) => this.#waiting.push(resolve));
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#inFlight--;
      else next();
    }
  }
}
