/** Amounts of data as people read them. */

const UNITS = ['bytes', 'kB', 'MB', 'GB', 'TB'];

/** A unit is used up to this many of it, so that what is shown has two digits or more. */
const UNIT_LIMIT = 10_240;

/** `bytes` in the unit that suits it, rounded: `12 GB`, `9216 kB` (dbsize.c, pg_size_pretty()). */
export function formatBytes(bytes: number): string {
  let amount = bytes;
  let unit = 0;
  while (amount >= UNIT_LIMIT && unit < UNITS.length - 1) {
    amount /= 1024;
    unit += 1;
  }
  return `${Math.round(amount)} ${UNITS[unit]}`;
}
