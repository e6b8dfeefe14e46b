/**
 * Waiting in tests: for a condition, looked at again and again, never for a length of time.
 */
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_INTERVAL_MS = 20;
const TIMEOUT_DEFAULT_MS = 60_000;

export interface WaitOptions {
  timeoutMs?: number;
}

/**
 * Resolves to the first value of `probe` that is neither false, undefined, null, 0 nor empty.
 * `description` completes the sentence "waited for …". A probe that throws ends the wait.
 */
export async function waitFor<T>(
  description: string,
  probe: () => T | Promise<T>,
  { timeoutMs = TIMEOUT_DEFAULT_MS }: WaitOptions = {},
): Promise<NonNullable<T>> {
  const giveUpAt = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (performance.now() >= giveUpAt) {
      throw new Error(`waited ${timeoutMs} ms for ${description}; last value: ${show(value)}`);
    }
    await sleep(POLL_INTERVAL_MS);
  }
}

/** Resolves once `probe` gives `expected`; the error of a timeout shows what it gave instead. */
export async function waitForValue<T>(
  description: string,
  expected: T,
  probe: () => T | Promise<T>,
  { timeoutMs = TIMEOUT_DEFAULT_MS }: WaitOptions = {},
): Promise<void> {
  const giveUpAt = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value === expected) return;
    if (performance.now() >= giveUpAt) {
      const difference = `expected ${show(expected)}, last value: ${show(value)}`;
      throw new Error(`waited ${timeoutMs} ms for ${description}; ${difference}`);
    }
    await sleep(POLL_INTERVAL_MS);
  }
}

function show(value: unknown): string {
  if (typeof value === 'bigint') return `${value}n`;
  return typeof value === 'string' ? JSON.stringify(value) : String(value);
}
