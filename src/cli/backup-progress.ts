/** How far a base backup has come: a bar with bytes, rate and remaining time, at a terminal. */
import progress from 'cli-progress';
import { systemClock } from '../base/clock.ts';
import { formatBytes } from '../base/format-bytes.ts';

export interface BackupProgress {
  update(progress: { doneBytes: number; totalBytes: number }): void;
  /** Takes the bar away. */
  end(): void;
}

const BAR_COLUMNS = 24;

/** A bar on stderr; nothing where that is no terminal. */
export function showBackupProgress(): BackupProgress {
  if (!process.stderr.isTTY) return { update: () => {}, end: () => {} };
  let startedMs: number | undefined;
  const bar = new progress.SingleBar({
    stream: process.stderr,
    clearOnComplete: true,
    hideCursor: true,
    barsize: BAR_COLUMNS,
    format: (_options, { progress: share }) => {
      const filled = Math.round(share * BAR_COLUMNS);
      return `base backup ${'█'.repeat(filled)}${'░'.repeat(BAR_COLUMNS - filled)} ${figures}`;
    },
  });
  let figures = '';
  return {
    update: ({ doneBytes, totalBytes }) => {
      const nowMs = systemClock.monotonicMs();
      const isFirst = startedMs === undefined;
      startedMs ??= nowMs;
      figures = describeProgress({ doneBytes, totalBytes, elapsedMs: nowMs - startedMs });
      if (isFirst) bar.start(totalBytes, doneBytes);
      bar.setTotal(totalBytes);
      bar.update(doneBytes);
    },
    end: () => bar.stop(),
  };
}

/** `45 MB of 1200 MB, 110 MB/s, 10 s left`. */
export function describeProgress({
  doneBytes,
  totalBytes,
  elapsedMs,
}: {
  doneBytes: number;
  totalBytes: number;
  elapsedMs: number;
}): string {
  const done = `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
  if (elapsedMs === 0 || doneBytes === 0) return done;
  const bytesPerSecond = (doneBytes * 1000) / elapsedMs;
  const seconds = Math.ceil((totalBytes - doneBytes) / bytesPerSecond);
  return `${done}, ${formatBytes(bytesPerSecond)}/s, ${formatSeconds(seconds)} left`;
}

/** `42 s`, `3 min 20 s`, `2 h 5 min`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
