/**
 * Keeps the node's durable knowledge current while it runs, and its disk free: the control file
 * about once a second, slots and removal of WAL when a segment is complete.
 *
 * It ends by its signal. Slots are saved before WAL is removed by what is on disk of them.
 */
import type { Clock } from '../base/clock.ts';
import { describeSystemError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReplicationSlots } from '../store/replication-slots.ts';
import { oldestKept } from '../store/retention.ts';
import type { WalStore } from '../store/wal-store.ts';
import { type Lsn, formatLsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';

const CHECKPOINT_INTERVAL_MS = 1000;
const SLOT_SAVE_INTERVAL_MS = 30_000;

export interface RetentionOptions {
  store: WalStore;
  slots: ReplicationSlots;
  /** Starts of base backups that pass through. */
  backupStarts: ReadonlySet<{ start: Lsn }>;
  keepBytes: () => number;
  clock: Clock;
  log: Log;
}

export async function keepRetention(options: RetentionOptions, signal: AbortSignal): Promise<void> {
  const { store, clock } = options;
  let checkpointed = store.flushed;
  let segment: Lsn | undefined;
  let slotsSavedMs = clock.monotonicMs();
  for (;;) {
    await clock.sleep(CHECKPOINT_INTERVAL_MS, signal);
    const { flushed } = store;
    if (flushed !== checkpointed) await store.checkpoint();
    checkpointed = flushed;
    const current = segmentStart(flushed, store.segmentBytes);
    if (current !== segment) {
      segment = current;
      await saveSlots(options);
      slotsSavedMs = clock.monotonicMs();
      await removeOldWal(options);
    } else if (clock.monotonicMs() - slotsSavedMs >= SLOT_SAVE_INTERVAL_MS) {
      await saveSlots(options);
      slotsSavedMs = clock.monotonicMs();
    }
  }
}

/** A slot that cannot be saved keeps its WAL by what was saved of it: that is safe, not an end. */
export async function saveSlots({
  slots,
  log,
}: Pick<RetentionOptions, 'slots' | 'log'>): Promise<void> {
  try {
    await slots.saveAll();
  } catch (error) {
    const why = describeSystemError(error);
    log.warning(`could not save replication slots: ${why}`);
  }
}

/** Removes the WAL that nobody has a claim on, as of now. */
async function removeOldWal(options: RetentionOptions): Promise<void> {
  const { store, slots, backupStarts, keepBytes, log } = options;
  const { flushed, walkFrom, checkpointRedo, segmentBytes } = store;
  const reserved = [...slots.claims(), ...[...backupStarts].map(({ start }) => start)];
  const kept = oldestKept(
    { flushed, walkFrom, checkpointRedo, keepBytes: BigInt(keepBytes()), reserved },
    segmentBytes,
  );
  if (kept <= store.oldest) return;
  log.debug(`removing WAL before ${formatLsn(kept)}`);
  await store.removeBefore(kept);
}
