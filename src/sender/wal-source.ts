/**
 * Where a WAL sender takes its bytes from: the store, or an upstream for what the store no longer
 * has. The sender neither knows nor cares.
 */
import type { Watermark } from '../base/watermark.ts';
import type { WalChunk } from '../store/wal-blocks.ts';
import type { WalStore } from '../store/wal-store.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';

export interface WalSource {
  /** All before this may be read and sent: it rests at record ends, or where the source ends. */
  readonly served: Watermark<Lsn>;
  /** Of whose history it is; undefined for what one downstream alone is sent. */
  readonly timeline?: TimelineId;
  /**
   * WAL from `start` on, up to `end` at most and at least one byte. A piece that is shorter ends at
   * a page boundary. Throws 58P01 for what has been removed.
   */
  read(start: Lsn, end: Lsn): WalChunk | Promise<WalChunk>;
}

/** What the store has of its current history: also after it has gone on with another one. */
export function storeSource(store: WalStore): WalSource {
  const { served, history } = store;
  return {
    served,
    timeline: history.timeline,
    read: (start, end) => store.read(history, start, end),
  };
}
