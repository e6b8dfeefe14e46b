/**
 * Which WAL must stay. One pure rule: the oldest position that anybody has a claim on.
 */
import { type Lsn, alignDown, lsn, minLsn } from '../wal/lsn.ts';

export interface RetentionClaims {
  /** All before this is durable here; nothing past it is ever removed. */
  flushed: Lsn;
  /** Where the next start would begin to walk. */
  walkFrom: Lsn;
  /** Redo pointer of the newest checkpoint, from which a new slot with RESERVE_WAL begins. */
  checkpointRedo: Lsn | undefined;
  /** wal_keep_size, in bytes. */
  keepBytes: bigint;
  /** Restart positions of all slots, and the starts of base backups in progress. */
  reserved: readonly Lsn[];
}

/** The start of the oldest segment that must be kept; segments before it may be removed. */
export function oldestKept(claims: RetentionClaims, segmentBytes: number): Lsn {
  const { flushed, walkFrom, checkpointRedo, keepBytes, reserved } = claims;
  let oldest = minLsn(walkFrom, lsn(flushed > keepBytes ? flushed - keepBytes : 0n));
  if (checkpointRedo !== undefined) oldest = minLsn(oldest, checkpointRedo);
  for (const position of reserved) oldest = minLsn(oldest, position);
  return alignDown(oldest, segmentBytes);
}
