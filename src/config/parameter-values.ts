/**
 * The texts of parameter values as values, and back, exactly as guc.c reads and shows them:
 * booleans, integers with units, words of a list, comma-separated lists.
 *
 * These functions know no parameter. A text that is no value gives undefined or a reason; the
 * words for the user are in parameters.ts.
 */

export type TimeUnit = 'us' | 'ms' | 's';
export type MemoryUnit = 'B' | 'kB' | 'MB';
export type BaseUnit = TimeUnit | MemoryUnit;

/** From the largest; each with its size in microseconds or bytes. */
const TIME_UNITS: readonly (readonly [unit: string, size: number])[] = [
  ['d', 86_400_000_000],
  ['h', 3_600_000_000],
  ['min', 60_000_000],
  ['s', 1_000_000],
  ['ms', 1000],
  ['us', 1],
];
const MEMORY_UNITS: readonly (readonly [unit: string, size: number])[] = [
  ['TB', 1024 ** 4],
  ['GB', 1024 ** 3],
  ['MB', 1024 ** 2],
  ['kB', 1024],
  ['B', 1],
];

const TIME_UNITS_HINT = 'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".';
const MEMORY_UNITS_HINT = 'Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".';

export const INTEGER_MAX = 2_147_483_647;

/** bool.c, parse_bool(): any case, unambiguous prefixes, `1` and `0`. */
export function parseBool(text: string): boolean | undefined {
  const word = text.toLowerCase();
  if (word === '') return undefined;
  if (word === '1' || 'true'.startsWith(word) || 'yes'.startsWith(word)) return true;
  if (word === '0' || 'false'.startsWith(word) || 'no'.startsWith(word)) return false;
  if (word === 'on') return true;
  return word === 'of' || word === 'off' ? false : undefined;
}

export type IntegerResult =
  | { readonly kind: 'integer'; readonly value: number }
  | { readonly kind: 'invalid'; readonly hint?: string };

/**
 * guc.c, parse_int(): decimal, octal or hexadecimal, or a fraction, then perhaps a unit; the
 * result is in `unit`, rounded half to even.
 */
export function parseInteger(text: string, unit: BaseUnit | undefined): IntegerResult {
  const number = /^[ \t\n\v\f\r]*([+-]?)(0x[0-9a-f]+|0[0-7]*|[1-9]\d*)/i.exec(text);
  const isWhole = number !== null && !/^[.e]/i.test(text.slice(number[0].length));
  const fraction = /^[ \t\n\v\f\r]*[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?/i.exec(text);
  let value: number;
  let rest: string;
  if (isWhole) {
    const digits = number[2] ?? '';
    const isOctal = /^0\d/.test(digits);
    value = Number(isOctal ? `0o${digits}` : digits) * (number[1] === '-' ? -1 : 1);
    rest = text.slice(number[0].length);
  } else if (fraction) {
    value = Number(fraction[0]);
    rest = text.slice(fraction[0].length);
  } else {
    return { kind: 'invalid' };
  }
  rest = rest.replace(/^[ \t\n\v\f\r]+/, '');
  if (rest !== '') {
    if (unit === undefined) return { kind: 'invalid' };
    const converted = toBaseUnit(value, rest.replace(/[ \t\n\v\f\r]+$/, ''), unit);
    if (converted === undefined) {
      return { kind: 'invalid', hint: isTime(unit) ? TIME_UNITS_HINT : MEMORY_UNITS_HINT };
    }
    value = converted;
  }
  value = roundHalfToEven(value);
  if (!(value <= INTEGER_MAX && value >= -INTEGER_MAX - 1)) {
    return { kind: 'invalid', hint: 'Value exceeds integer range.' };
  }
  return { kind: 'integer', value };
}

/**
 * guc.c, convert_to_base_unit(): a fraction is first rounded to the next smaller unit, so that
 * 30.1GB is a whole number of megabytes.
 */
function toBaseUnit(value: number, unit: string, baseUnit: BaseUnit): number | undefined {
  const units = isTime(baseUnit) ? TIME_UNITS : MEMORY_UNITS;
  const index = units.findIndex(([name]) => name === unit);
  const given = units[index];
  if (given === undefined) return undefined;
  const baseSize = unitSize(baseUnit);
  const smaller = units[index + 1];
  if (smaller === undefined) return (value * given[1]) / baseSize;
  const inSmaller = roundHalfToEven((value * given[1]) / smaller[1]);
  return (inSmaller * smaller[1]) / baseSize;
}

/** An integer in `unit` as SHOW prints it: in the largest unit that divides it. */
export function formatInteger(value: number, unit: BaseUnit | undefined): string {
  if (unit === undefined || value <= 0) return String(value);
  const size = value * unitSize(unit);
  const [name, divisor] = (isTime(unit) ? TIME_UNITS : MEMORY_UNITS).find(
    ([, each]) => size % each === 0,
  ) ?? [unit, unitSize(unit)];
  return `${size / divisor}${name}`;
}

/** The size of a unit in microseconds or bytes. */
export function unitSize(unit: BaseUnit): number {
  const found = [...TIME_UNITS, ...MEMORY_UNITS].find(([name]) => name === unit);
  return found?.[1] ?? 1;
}

export function isTime(unit: BaseUnit): unit is TimeUnit {
  return unit === 'us' || unit === 'ms' || unit === 's';
}

/**
 * A comma-separated list, or undefined if its syntax is broken (varlena.c, SplitGUCList() and,
 * where elements may hold spaces, SplitDirectoriesString()). Double quotes protect commas and
 * spaces; `""` in them is one.
 */
export function parseList(text: string, { spaces }: { spaces: boolean }): string[] | undefined {
  if (text.trim() === '') return [];
  const element = spaces
    ? /\s*(?:"((?:[^"]|"")*)"|([^\s",][^,]*?))\s*(,|$)/y
    : /\s*(?:"((?:[^"]|"")*)"|([^\s",][^\s,]*))\s*(,|$)/y;
  const elements: string[] = [];
  for (;;) {
    const match = element.exec(text);
    if (!match) return undefined;
    elements.push(match[1]?.replaceAll('""', '"') ?? match[2] ?? '');
    if (match[3] === '') return elements;
  }
}

/** The inverse of `parseList`. */
export function formatList(elements: readonly string[]): string {
  return elements
    .map((element) =>
      element === '' || /[\s",]/.test(element) ? `"${element.replaceAll('"', '""')}"` : element,
    )
    .join(', ');
}

function roundHalfToEven(value: number): number {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}
