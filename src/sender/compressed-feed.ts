/**
 * The sending half of a WAL sender over a compressed link: as feedWal(), but what is long enough to
 * be worth it goes as zstd frames, which all compressed links share.
 *
 *   sent ≤ served   No downstream is sent a byte that is not proven.
 *
 * While a batch is on its way WAL gathers, and the next messages are longer: nothing else waits. A
 * message ends at a multiple of its greatest length, so that downstreams that began anywhere come
 * to be sent the same ones.
 */
import type { Connection } from '../protocol/connection.ts';
import { encodeCompressedWalFrame, encodeWalDataFrame } from '../protocol/replication-messages.ts';
import type { Zstd } from '../protocol/zstd.ts';
import type { WalChunk } from '../store/wal-blocks.ts';
import { type Lsn, advance, alignDown, minLsn } from '../wal/lsn.ts';
import { FIRST_PACE, nextPace } from './frame-choice.ts';
import { MESSAGE_BYTES_MAX, type WalFeedOptions, readBatch } from './wal-feed.ts';
import type { WalFrames } from './wal-frames.ts';
import type { WalSource } from './wal-source.ts';

export interface LinkCompressor {
  zstd: Zstd;
  frames: WalFrames;
}

/** Sends until `until` is reached; rejects with what the source or the connection says. */
export async function feedCompressedWal(
  source: WalSource,
  connection: Connection,
  { zstd, frames }: LinkCompressor,
  { start, until, clock, signal, onSent, onCaughtUp }: WalFeedOptions,
): Promise<void> {
  const { timeline } = source;
  let sent = start;
  let pace = FIRST_PACE;
  while (sent < until) {
    const walEnd = minLsn(source.served.value, until);
    if (sent >= walEnd) {
      onCaughtUp();
      await source.served.waitPast(sent, { timeoutMs: Number.POSITIVE_INFINITY, clock, signal });
      continue;
    }
    signal.throwIfAborted();
    const batch = await readBatch(source, { start: sent, walEnd, messageEnd: sharedMessageEnd });
    try {
      const beganMs = clock.monotonicMs();
      const { level } = pace;
      let position = sent;
      const made = await Promise.all(
        batch.map(({ bytes }) => {
          const request = { zstd, timeline, start: position, bytes, level };
          position = advance(position, bytes.length);
          return frames.frame(request);
        }),
      );
      const madeMs = clock.monotonicMs();
      const parts = messages(batch, made, { start: sent, walEnd, sentAt: clock.timestampUs() });
      sent = position;
      onSent(sent);
      await connection.send(parts);
      const sendMs = clock.monotonicMs() - madeMs;
      pace = nextPace(pace, { compressMs: madeMs - beganMs, sendMs });
    } finally {
      for (const chunk of batch) chunk.release();
    }
  }
}

function messages(
  batch: readonly WalChunk[],
  made: readonly (Buffer | undefined)[],
  { start, ...header }: { start: Lsn; walEnd: Lsn; sentAt: bigint },
): Uint8Array[] {
  const parts: Uint8Array[] = [];
  let position = start;
  for (const [index, { bytes }] of batch.entries()) {
    const frame = made[index];
    const at = { ...header, start: position };
    if (frame === undefined) parts.push(encodeWalDataFrame(at, bytes.length), bytes);
    else parts.push(encodeCompressedWalFrame(at, frame.length), frame);
    position = advance(position, bytes.length);
  }
  return parts;
}

/** As messageEnd(), at the same places for everybody. */
export function sharedMessageEnd(sent: Lsn, walEnd: Lsn): Lsn {
  return minLsn(walEnd, alignDown(advance(sent, MESSAGE_BYTES_MAX), MESSAGE_BYTES_MAX));
}
