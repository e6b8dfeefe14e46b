/**
 * What is worth compressing, and how hard: decisions of a compressed link, as functions of values.
 *
 * Whether WAL compresses is a property of the WAL, so it is decided once for all downstreams; how
 * much time there is for it is one of each link.
 */

/** Shorter messages are sent as they are: compressing one costs about as much as a long one. */
export const COMPRESSED_BYTES_MIN = 512;

/**
 * What is no longer than this is compressed at once, in some 0.05 ms: on the other threads it would
 * stand behind writes and syncs, and live WAL comes in such pieces.
 */
const AT_ONCE_BYTES_MAX = 8 * 1024;

export function isMadeAtOnce(walBytes: number): boolean {
  return walBytes <= AT_ONCE_BYTES_MAX;
}

/** A frame must be smaller than its WAL by this factor, or it is not worth reading. */
const RATIO_MIN = 1.1;
/** Over how much WAL that is judged, and for how much it is then not tried again. */
const JUDGED_BYTES = 1024 * 1024;
const RAW_BYTES_MIN = 2 * 1024 * 1024;
const RAW_BYTES_MAX = 32 * 1024 * 1024;

/** How well the last WAL has compressed. */
export interface Compressibility {
  walBytes: number;
  frameBytes: number;
  /** How much WAL is to be sent as it is before compressing is tried again. */
  rawBytes: number;
  /** How much that was the last time; 0 if the last try was worth it. */
  lastRawBytes: number;
}

export const COMPRESSIBLE: Compressibility = {
  walBytes: 0,
  frameBytes: 0,
  rawBytes: 0,
  lastRawBytes: 0,
};

/** Whether a message of `walBytes` is to be compressed. */
export function isWorthTrying({ rawBytes }: Compressibility, walBytes: number): boolean {
  return walBytes >= COMPRESSED_BYTES_MIN && rawBytes === 0;
}

/** Whether a frame is to be sent in place of its WAL. */
export function isWorthSending(sizes: { walBytes: number; frameBytes: number }): boolean {
  return sizes.walBytes >= sizes.frameBytes * RATIO_MIN;
}

/** What is known after a message that was sent as it is, without a try. */
export function afterRaw(known: Compressibility, walBytes: number): Compressibility {
  if (known.rawBytes === 0) return known;
  return { ...known, rawBytes: Math.max(0, known.rawBytes - walBytes) };
}

/** What is known after a frame was made. */
export function afterFrame(
  known: Compressibility,
  made: { walBytes: number; frameBytes: number },
): Compressibility {
  const walBytes = known.walBytes + made.walBytes;
  const frameBytes = known.frameBytes + made.frameBytes;
  // After a while without compressing, one frame is enough to go on so.
  const enough = known.lastRawBytes > 0 ? 1 : JUDGED_BYTES;
  if (walBytes < enough) return { ...known, walBytes, frameBytes };
  if (isWorthSending({ walBytes, frameBytes })) {
    // What came before counts for half as much from now on.
    return { walBytes: walBytes / 2, frameBytes: frameBytes / 2, rawBytes: 0, lastRawBytes: 0 };
  }
  const rawBytes = Math.min(RAW_BYTES_MAX, Math.max(RAW_BYTES_MIN, known.lastRawBytes * 2));
  return { walBytes: 0, frameBytes: 0, rawBytes, lastRawBytes: rawBytes };
}

/** zstd's levels that are used: each takes about twice the time of the one before. */
export const LEVELS = [1, 3, 6] as const;

/** How hard a link's WAL is compressed, and why. */
export interface LinkPace {
  level: (typeof LEVELS)[number];
  /** The share of the time that sending took of late, the rest being compression: 0 to 1. */
  sendingShare: number;
}

export const FIRST_PACE: LinkPace = { level: LEVELS[0], sendingShare: 0.5 };

const NEWEST_WEIGHT = 0.1;
const LINK_IS_SLOW = 0.8;
const LINK_IS_FAST = 0.4;

/**
 * The pace after a batch that took these times: harder where the link is what is waited for, less
 * hard where compressing is. In between it stays, so that it does not swing.
 */
export function nextPace(
  { level, sendingShare }: LinkPace,
  { compressMs, sendMs }: { compressMs: number; sendMs: number },
): LinkPace {
  const allMs = compressMs + sendMs;
  if (allMs <= 0) return { level, sendingShare };
  const share = sendingShare + NEWEST_WEIGHT * (sendMs / allMs - sendingShare);
  const index = LEVELS.indexOf(level);
  const other = share > LINK_IS_SLOW ? index + 1 : share < LINK_IS_FAST ? index - 1 : index;
  const next = LEVELS[other];
  if (next === undefined || next === level) return { level, sendingShare: share };
  // A new level is judged by what it does itself.
  return { level: next, sendingShare: 0.5 };
}
