/** How long to wait before the attempt after `failures` failed ones: doubling, up to a limit. */
const FIRST_DELAY_MS = 100;

export function retryDelayMs(failures: number, { maxMs }: { maxMs: number }): number {
  return Math.min(maxMs, FIRST_DELAY_MS * 2 ** Math.min(failures, 20));
}
