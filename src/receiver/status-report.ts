/**
 * When the upstream is told what (walreceiver.c, XLogWalRcvSendReply() and
 * XLogWalRcvSendHSFeedback()): pure decisions, and the state they need.
 */
import type { Lsn } from '../wal/lsn.ts';

export interface ReportedPositions {
  write: Lsn;
  flush: Lsn;
  apply: Lsn;
}

/** Hot standby feedback of everything below this node, as 64-bit xids; 0 asks for nothing. */
export interface Feedback {
  xmin: bigint;
  catalogXmin: bigint;
}

export interface ReportTimes {
  nowMs: number;
  lastReportMs: number;
  /** wal_receiver_status_interval; 0 reports only what changed or was asked for. */
  intervalMs: number;
}

/** A status update is due when something moved, when asked for, or when the interval is over. */
export function isReportDue(
  last: ReportedPositions | undefined,
  current: ReportedPositions,
  { nowMs, lastReportMs, intervalMs }: ReportTimes,
): boolean {
  if (last === undefined) return true;
  if (last.write !== current.write || last.flush !== current.flush) return true;
  if (last.apply !== current.apply) return true;
  return intervalMs > 0 && nowMs - lastReportMs >= intervalMs;
}

/**
 * Where syncs are fast, what is only written is not told by itself: the same position is told as
 * durable a moment later, and each message has to be taken by the upstream beside its commits.
 * Commits that wait for the write alone (remote_write) wait for no slow sync.
 */
export function isWriteHeld(
  last: ReportedPositions | undefined,
  current: ReportedPositions,
  { syncMs, isOverdue }: { syncMs: number; isOverdue: boolean },
): boolean {
  if (last === undefined || isOverdue || syncMs > FAST_SYNC_MS) return false;
  const isWriteAlone = last.flush === current.flush && last.apply === current.apply;
  return isWriteAlone && last.write !== current.write;
}

const FAST_SYNC_MS = 2;

/**
 * Feedback is sent once on each connection, also when it asks for nothing: that clears what an
 * earlier connection left. After that, at most once an interval, and nothing only once.
 */
export function isFeedbackDue(
  last: Feedback | undefined,
  current: Feedback,
  { nowMs, lastReportMs, intervalMs }: ReportTimes,
): boolean {
  if (last === undefined) return true;
  const asksForNothing = (f: Feedback): boolean => f.xmin === 0n && f.catalogXmin === 0n;
  if (asksForNothing(current)) return !asksForNothing(last);
  return nowMs - lastReportMs >= Math.max(intervalMs, FEEDBACK_INTERVAL_MS_MIN);
}

/** With many downstreams the sum of what they ask for is not made for each message. */
export function isFeedbackLookDue({ nowMs, lastReportMs, intervalMs }: ReportTimes): boolean {
  return nowMs - lastReportMs >= Math.max(intervalMs, FEEDBACK_INTERVAL_MS_MIN);
}

const FEEDBACK_INTERVAL_MS_MIN = 1000;
