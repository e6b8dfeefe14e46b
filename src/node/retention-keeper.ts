/**
 * Keeps the node's durable knowledge current while it runs, and its disk free: the control file
 * about once a second, slots when a segment is complete, and WAL removed as soon as it may be.
 *
 * It ends by its signal, or when an fsync fails. Slots are saved before WAL is removed by what is
 * on disk of them.
 */
import type { Clock } from '../base/clock.ts';
import { WalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { FsyncFailed, diskRefusal } from '../store/disk-refusal.ts';
import type { ReplicationSlots } from '../store/replication-slots.ts';
import { oldestKept } from '../store/retention.ts';
import type { WalStore } from '../store/wal-store.ts';
import type { Lsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';

const CHECKPOINT_INTERVAL_MS = 1000;
const SLOT_SAVE_INTERVAL_MS = 30_000;

export interface RetentionOptions {
  store: WalStore;
  slots: ReplicationSlots;
  /** Starts of base backups that pass through. */
  backupStarts: ReadonlySet<{ start: Lsn }>;
  keepBytes: () => number;
  /** Where recovery of the attached server begins; undefined without one. */
  attachedRedo: () => Promise<Lsn | undefined>;
  clock: Clock;
  log: Log;
}

export async function keepRetention(options: RetentionOptions, signal: AbortSignal): Promise<void> {
  const { store, clock, log } = options;
  const checkpoint = new Chore(log);
  const slots = new Chore(log);
  const removal = new Chore(log);
  let checkpointed = store.flushed;
  let segment: Lsn | undefined;
  let slotsSavedMs = clock.monotonicMs();
  for (;;) {
    await clock.sleep(CHECKPOINT_INTERVAL_MS, signal);
    const { flushed } = store;
    if (flushed !== checkpointed && (await checkpoint.run(() => store.checkpoint()))) {
      checkpointed = flushed;
    }
    const current = segmentStart(flushed, store.segmentBytes);
    if (current !== segment || clock.monotonicMs() - slotsSavedMs >= SLOT_SAVE_INTERVAL_MS) {
      segment = current;
      await slots.run(() => saveAll(options));
      slotsSavedMs = clock.monotonicMs();
    }
    await removal.run(() => removeOldWal(options));
  }
}

/**
 * What is done again and again, and may be refused for a while: that is told once, not each time,
 * and ends nothing but when an fsync of WAL or the control file has failed.
 */
class Chore {
  readonly #log: Log;
  #told: string | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Whether `action` succeeded. */
  async run(action: () => Promise<void>): Promise<boolean> {
    try {
      await action();
      this.#told = undefined;
      return true;
    } catch (error) {
      if (error instanceof FsyncFailed || !(error instanceof WalcadeError)) throw error;
      if (error.message !== this.#told) this.#log.warning(error);
      this.#told = error.message;
      return false;
    }
  }
}

/** Saves the slots for the last time; that it was refused is told. */
export async function saveSlots(options: Pick<RetentionOptions, 'slots' | 'log'>): Promise<void> {
  await new Chore(options.log).run(() => saveAll(options));
}

/** A slot that cannot be saved keeps its WAL by what was saved of it: that is safe, not an end. */
async function saveAll({ slots }: Pick<RetentionOptions, 'slots'>): Promise<void> {
  try {
    await slots.saveAll();
  } catch (error) {
    throw diskRefusal(error, 'save', 'replication slots');
  }
}

/** Removes the WAL that nobody has a claim on, as of now. */
async function removeOldWal(options: RetentionOptions): Promise<void> {
  const { store, slots, backupStarts, keepBytes } = options;
  const attachedRedo = await options.attachedRedo();
  const { flushed, walkFrom, checkpointRedo, segmentBytes } = store;
  const reserved = [...slots.claims(), ...[...backupStarts].map(({ start }) => start)];
  if (attachedRedo !== undefined) reserved.push(attachedRedo);
  const kept = oldestKept(
    { flushed, walkFrom, checkpointRedo, keepBytes: BigInt(keepBytes()), reserved },
    segmentBytes,
  );
  await store.removeBefore(kept);
}
