/**
 * Removes stored WAL that nobody has a claim on, the oldest first and each segment durably, so that
 * a power cut leaves no gap. It lives as long as the store.
 *
 *   removed ≤ oldest   what is about to go is not offered any more; what could not go is tried anew
 */
import { type Disk, removeIfThere } from '../base/disk.ts';
import type { Log } from '../base/log.ts';
import { type Lsn, formatLsn, maxLsn } from '../wal/lsn.ts';
import { segmentStart } from '../wal/segment.ts';
import { diskRefusal } from './disk-refusal.ts';
import { removableSegments } from './segment-catalog.ts';
import type { SegmentReader } from './segment-reader.ts';

export interface SegmentRemovalOptions {
  disk: Disk;
  log: Log;
  /** pg_wal. */
  directory: string;
  segmentBytes: number;
  reader: SegmentReader;
}

export class SegmentRemoval {
  readonly #options: SegmentRemovalOptions;
  #oldest: Lsn;
  #removed: Lsn;
  #isPaused = false;

  /** A store whose oldest segment begins at `oldest`. */
  constructor(options: SegmentRemovalOptions, oldest: Lsn) {
    this.#options = options;
    this.#oldest = oldest;
    this.#removed = oldest;
  }

  get oldest(): Lsn {
    return this.#oldest;
  }

  /** As WalStore.removeBefore(). */
  async removeBefore(position: Lsn): Promise<void> {
    const { disk, log, directory, segmentBytes, reader } = this.#options;
    const kept = segmentStart(position, segmentBytes);
    if (kept <= this.#removed || this.#isPaused) return;
    this.#oldest = maxLsn(this.#oldest, kept);
    log.debug(`removing WAL before ${formatLsn(kept)}`);
    for (const name of removableSegments(await this.#names(), kept, segmentBytes)) {
      try {
        await removeIfThere(disk, `${directory}/${name}`);
      } catch (error) {
        throw diskRefusal(error, 'remove', `WAL segment ${name}`);
      }
      reader.forget(name);
      try {
        await disk.syncDirectory(directory);
      } catch (error) {
        throw diskRefusal(error, 'fsync', 'directory "pg_wal"');
      }
    }
    this.#removed = kept;
  }

  /** Begins no removal until `action` has ended: it needs WAL that nobody has a claim on yet. */
  async pausedFor(action: () => Promise<void>): Promise<void> {
    this.#isPaused = true;
    try {
      await action();
    } finally {
      this.#isPaused = false;
    }
  }

  async #names(): Promise<string[]> {
    try {
      return await this.#options.disk.list(this.#options.directory);
    } catch (error) {
      throw diskRefusal(error, 'read', 'directory "pg_wal"');
    }
  }
}
