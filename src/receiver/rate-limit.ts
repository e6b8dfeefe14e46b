/**
 * How much may be read of a link in a second, as functions of values: a bucket of bytes that fills
 * at the rate and that reading empties. What is read at once may be more than it holds; then
 * nothing is read until that is made up for.
 */

/** What a link that was idle may catch up on at once. */
const BURST_MS = 100;

export interface RateBucket {
  /** Bytes that may be read now; below zero, what is owed. */
  bytes: number;
  atMs: number;
}

/** The bucket at `nowMs`; without one, as after a change of the rate, it begins empty. */
export function refilled(
  bucket: RateBucket | undefined,
  { bytesPerSecond, nowMs }: { bytesPerSecond: number; nowMs: number },
): RateBucket {
  if (bucket === undefined) return { bytes: 0, atMs: nowMs };
  const gained = (bytesPerSecond * (nowMs - bucket.atMs)) / 1000;
  const full = (bytesPerSecond * BURST_MS) / 1000;
  return { bytes: Math.min(full, bucket.bytes + gained), atMs: nowMs };
}

/** The bucket after `bytes` were read. */
export function drawn(bucket: RateBucket, bytes: number): RateBucket {
  return { ...bucket, bytes: bucket.bytes - bytes };
}

/** How long nothing is to be read, in milliseconds. */
export function pauseMs({ bytes }: RateBucket, bytesPerSecond: number): number {
  return bytes >= 0 ? 0 : Math.ceil((-bytes * 1000) / bytesPerSecond);
}
