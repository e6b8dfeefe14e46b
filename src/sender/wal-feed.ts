/**
 * The sending half of a WAL sender: WAL from a source, in order, to one downstream.
 *
 *   sent ≤ served   No downstream is sent a byte that is not proven.
 *
 * One batch is in flight at a time, its bytes shared with every other downstream that reads the
 * same blocks: a downstream that stops reading holds back nobody else and pins one batch.
 */
import { assert } from '../base/assert.ts';
import type { Clock } from '../base/clock.ts';
import type { Connection } from '../protocol/connection.ts';
import { encodeWalDataFrame } from '../protocol/replication-messages.ts';
import type { WalChunk } from '../store/wal-blocks.ts';
import { type Lsn, advance, alignDown, minLsn } from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import type { LiveFeed } from './live-feed.ts';
import type { WalSource } from './wal-source.ts';

/** The most WAL in one message: 16 pages, as MAX_SEND_SIZE in walsender.c. */
export const MESSAGE_BYTES_MAX = 16 * PAGE_BYTES;

const BATCH_BYTES_MAX = 8 * MESSAGE_BYTES_MAX;

export interface WalFeedOptions {
  start: Lsn;
  /** Where the source's part ends: the end of a timeline, or where another source takes over. */
  until: Lsn;
  clock: Clock;
  signal: AbortSignal;
  onSent: (sent: Lsn) => void;
  /** All there is has been sent; more may come. */
  onCaughtUp: () => void;
}

/**
 * Sends until `until` is reached; rejects with what the source or the connection says. What comes
 * after all there is was sent is left to `live`, if it is given: it sends to all who are so far.
 */
export async function feedWal(
  source: WalSource,
  connection: Connection,
  { start, until, clock, signal, onSent, onCaughtUp }: WalFeedOptions,
  live?: LiveFeed,
): Promise<void> {
  let sent = start;
  const follow = async (feed: LiveFeed): Promise<void> => {
    const note = (position: Lsn): void => {
      sent = position;
      onSent(position);
    };
    await feed.follow(connection, { sent, signal, until, onSent: note });
    await connection.settled();
  };
  while (sent < until) {
    const walEnd = minLsn(source.served.value, until);
    if (sent >= walEnd) {
      onCaughtUp();
      const forever = { timeoutMs: Number.POSITIVE_INFINITY, clock, signal };
      if (live === undefined) await source.served.waitPast(sent, forever);
      else await follow(live);
      continue;
    }
    signal.throwIfAborted();
    const batch = await readBatch(source, { start: sent, walEnd, messageEnd });
    try {
      const frames: Uint8Array[] = [];
      const sentAt = clock.timestampUs();
      for (const { bytes } of batch) {
        frames.push(encodeWalDataFrame({ start: sent, walEnd, sentAt }, bytes.length), bytes);
        sent = advance(sent, bytes.length);
      }
      onSent(sent);
      await connection.send(frames);
    } finally {
      for (const chunk of batch) chunk.release();
    }
  }
}

interface BatchRange {
  start: Lsn;
  walEnd: Lsn;
  /** Where the message that begins at a position ends at the latest. */
  messageEnd: (start: Lsn, walEnd: Lsn) => Lsn;
}

/** The messages of one write: what is in memory, or else one piece from disk. */
export async function readBatch(
  source: WalSource,
  { start, walEnd, messageEnd: endAfter }: BatchRange,
): Promise<WalChunk[]> {
  const batch: WalChunk[] = [];
  let position = start;
  let bytes = 0;
  while (position < walEnd && bytes < BATCH_BYTES_MAX) {
    const chunk = source.read(position, endAfter(position, walEnd));
    if (chunk instanceof Promise) {
      if (batch.length > 0) {
        // Sent without waiting for the disk; the next batch finds the block loaded.
        void chunk.then((loaded) => loaded.release()).catch(() => {});
        return batch;
      }
      batch.push(await chunk);
    } else {
      batch.push(chunk);
    }
    const { length } = (batch.at(-1) as WalChunk).bytes;
    position = advance(position, length);
    bytes += length;
  }
  return batch;
}

/**
 * Where the message after `sent` ends at the latest. A cut must not fall inside a WAL record: a
 * page boundary is safe, and so is `walEnd`, which rests at record ends.
 */
export function messageEnd(sent: Lsn, walEnd: Lsn): Lsn {
  assert(sent < walEnd, 'there is WAL to send');
  const furthest = advance(sent, MESSAGE_BYTES_MAX);
  const end = furthest >= walEnd ? walEnd : alignDown(furthest, PAGE_BYTES);
  assert(sent < end && end <= walEnd, 'a message holds proven WAL, at least one byte of it');
  return end;
}
