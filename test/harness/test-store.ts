/**
 * A node's store on a TestDisk, without the node: made, opened, run, and ended or left to a
 * power cut. Its WAL is that of `made` (wal-walks.ts): segments of 1 MB from 0/100000 on.
 */
import type { Clock } from '../../src/base/clock.ts';
import { createLog, type LogEntry } from '../../src/base/log.ts';
import { ControlFile, type ControlData } from '../../src/store/control-file.ts';
import { ReplicationSlots } from '../../src/store/replication-slots.ts';
import { WalStore } from '../../src/store/wal-store.ts';
import { type Lsn, advance, minLsn, timelineId } from '../../src/wal/lsn.ts';
import { TestDisk } from './test-disk.ts';
import { CLUSTER, MB, START } from './wal-walks.ts';

export const NODE = '/node';
export const WAL = `${NODE}/pg_wal`;
export const SLOTS = `${NODE}/pg_replslot`;

export const CONTROL_DATA: ControlData = {
  nodeId: 'a node of a test',
  systemIdentifier: CLUSTER,
  segmentBytes: MB,
  upstreamSettings: {},
  timeline: timelineId(1),
  walk: { from: START, startsAt: 'segment' },
  flushed: START,
  cleanShutdown: true,
};

/** The disk of a node that was made and never started. */
export async function newNodeDisk(control: Partial<ControlData> = {}): Promise<TestDisk> {
  const disk = new TestDisk();
  for (const directory of [NODE, WAL, SLOTS]) await disk.makeDirectory(directory);
  await ControlFile.create(disk, NODE, { ...CONTROL_DATA, ...control });
  return disk;
}

/** How long a sleep on the clock of a test takes: a spare segment is filled after one. */
export type Sleep = 'never' | 'for ever';

/** Time that stands still but for what the test adds; who sleeps sleeps for ever, or not at all. */
export class StillClock implements Clock {
  elapsedMs = 0;
  readonly #sleep: Sleep;

  constructor({ sleep }: { sleep: Sleep }) {
    this.#sleep = sleep;
  }

  timestampUs(): bigint {
    return BigInt(this.elapsedMs * 1000);
  }

  nowMs(): number {
    return this.elapsedMs;
  }

  monotonicMs(): number {
    return this.elapsedMs;
  }

  setTimer(): never {
    throw new Error('a store sets no timer');
  }

  sleep(_delayMs: number, signal: AbortSignal): Promise<void> {
    if (this.#sleep === 'never') return Promise.resolve();
    return new Promise((_resolve, reject) => {
      if (signal.aborted) reject(signal.reason as Error);
      signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
    });
  }
}

export class StoreUnderTest {
  readonly disk: TestDisk;
  readonly control: ControlFile;
  readonly slots: ReplicationSlots;
  readonly store: WalStore;
  readonly clock: StillClock;
  readonly log: readonly LogEntry[];
  readonly #stop = new AbortController();
  readonly #ended = new AbortController();
  readonly #run: Promise<{ error?: unknown }>;

  private constructor(parts: Pick<StoreUnderTest, 'disk' | 'control' | 'slots' | 'store'> & Watch) {
    this.disk = parts.disk;
    this.control = parts.control;
    this.slots = parts.slots;
    this.store = parts.store;
    this.clock = parts.clock;
    this.log = parts.log;
    this.#run = this.store.run(this.#stop.signal).then(
      () => this.#end({}),
      (error: unknown) => this.#end({ error }),
    );
  }

  /** Opens and runs the store of a node that is not running. */
  static async open(
    disk: TestDisk,
    { sleep = 'never' }: { sleep?: Sleep } = {},
  ): Promise<StoreUnderTest> {
    const clock = new StillClock({ sleep });
    const entries: LogEntry[] = [];
    const log = createLog((entry) => entries.push(entry), { minimum: () => 'log' });
    const control = await ControlFile.open(disk, NODE);
    const slots = await ReplicationSlots.open({ disk, directory: SLOTS, max: () => 10 });
    const store = await WalStore.open({ disk, clock, log, directory: NODE, control });
    return new StoreUnderTest({ disk, control, slots, store, clock, log: entries });
  }

  /** Aborts once the store does not run any more. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Appends what `wal`, which begins at START, has from `received` to `end`, in pieces. */
  append(wal: Buffer, end: Lsn = advance(START, wal.length), pieceBytes = 100_000): void {
    while (this.store.received < end) {
      const { received } = this.store;
      const to = minLsn(end, advance(received, pieceBytes));
      this.store.append(wal.subarray(Number(received - START), Number(to - START)));
    }
  }

  /** As `append`, and waits until all of it is durable or writing has failed. */
  async appendDurably(wal: Buffer, end?: Lsn, pieceBytes?: number): Promise<void> {
    this.append(wal, end, pieceBytes);
    await this.store.drained(this.#ended.signal);
  }

  rewind(): Promise<void> {
    return this.store.rewind(this.#ended.signal);
  }

  /** Stops the store in peace; rejects with what ended it before. */
  async stop(): Promise<void> {
    this.#stop.abort(new Error('the test stops the store'));
    const outcome = await this.#run;
    if ('error' in outcome) throw outcome.error;
  }

  #end(outcome: { error?: unknown }): { error?: unknown } {
    this.#ended.abort(outcome.error ?? new Error('the store has ended'));
    return outcome;
  }
}

interface Watch {
  clock: StillClock;
  log: readonly LogEntry[];
}

/** All stored WAL of a store from START to `end`, as its readers get it. */
export async function readAll(store: WalStore, end: Lsn = store.served.value): Promise<Buffer> {
  const parts: Buffer[] = [];
  for (let at = START; at < end; ) {
    const chunk = await store.read(store.history, at, end);
    parts.push(Buffer.from(chunk.bytes));
    at = advance(at, chunk.bytes.length);
    chunk.release();
  }
  return Buffer.concat(parts);
}
