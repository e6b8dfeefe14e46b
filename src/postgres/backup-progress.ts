/** How far a backup has come, told to who wants to know, but not too often. */
import type { Clock } from '../base/clock.ts';

const INTERVAL_MS = 100;

export interface Progress {
  doneBytes: number;
  totalBytes: number;
}

export class BackupProgress {
  readonly #clock: Clock;
  readonly #report: (progress: Progress) => void;
  #doneBytes = 0;
  #totalBytes: number;
  #reportedAtMs = Number.NEGATIVE_INFINITY;

  /** `totalBytes` is an estimate: it grows when more comes. */
  constructor(totalBytes: number, clock: Clock, report: (progress: Progress) => void) {
    this.#totalBytes = totalBytes;
    this.#clock = clock;
    this.#report = report;
  }

  get doneBytes(): number {
    return this.#doneBytes;
  }

  get totalBytes(): number {
    return this.#totalBytes;
  }

  add(bytes: number): void {
    this.#doneBytes += bytes;
    this.#totalBytes = Math.max(this.#totalBytes, this.#doneBytes);
    const nowMs = this.#clock.monotonicMs();
    if (nowMs - this.#reportedAtMs < INTERVAL_MS) return;
    this.#reportedAtMs = nowMs;
    this.#report({ doneBytes: this.#doneBytes, totalBytes: this.#totalBytes });
  }

  /** All is done: the last report says so. */
  finish(): void {
    this.#totalBytes = this.#doneBytes;
    this.#report({ doneBytes: this.#doneBytes, totalBytes: this.#totalBytes });
  }
}
