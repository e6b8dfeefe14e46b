/**
 * From the figures of a bench to what is shown of them: medians and ranges side by side, ratios,
 * and whether an aim is met. Pure functions of a result.
 */
import type { Aim, BenchResult, Figure } from './frame.ts';

export interface Summary {
  readonly median: number;
  readonly low: number;
  readonly high: number;
}

export interface Verdict {
  /** "≤ 0.6 of PostgreSQL". */
  readonly aim: string;
  readonly outcome: 'met' | 'missed';
  /** The figure or ratio that was compared. */
  readonly reached: Summary;
  readonly side: string;
  /** Where the side's figure would have to be: the bound, times what it is a ratio to. */
  readonly limit: number;
}

/** One case in one unit. */
export interface Row {
  readonly what: string;
  readonly unit: string;
  /** By side, in the order of `sides`; a side that was not measured in this case is left out. */
  readonly cells: ReadonlyMap<string, Summary>;
  /** The first side divided by each other one, where there is such a ratio. */
  readonly ratios: ReadonlyMap<string, Summary>;
  readonly verdicts: readonly Verdict[];
}

/** The sides of a result: walcade first, then as they were measured. */
export function sidesOf({ figures }: BenchResult): string[] {
  const sides = [...new Set(figures.map(({ side }) => side))];
  return sides.sort((a, b) => Number(b === 'walcade') - Number(a === 'walcade'));
}

/** The rows of a result, unit by unit, in the order in which they were measured. */
export function rowsOf(result: BenchResult): Row[] {
  const { figures, aims } = result;
  const sides = sidesOf(result);
  const units = [...new Set(figures.map(({ unit }) => unit))];
  return units.flatMap((unit) => {
    const cases = new Set(figures.filter((figure) => figure.unit === unit).map((f) => f.what));
    return [...cases].map((what): Row => {
      const present = sides.flatMap((side) => find(figures, { what, side, unit }) ?? []);
      const [first, ...others] = present;
      return {
        what,
        unit,
        cells: new Map(present.map(({ side, values }) => [side, summarize(values)])),
        ratios: new Map(
          others.flatMap((other) => {
            const ratio = first && divide(first, other);
            return ratio === undefined ? [] : [[other.side, ratio]];
          }),
        ),
        verdicts: aims
          .filter((aim) => aim.what === what && aim.unit === unit)
          .flatMap((aim) => judge(aim, figures) ?? []),
      };
    });
  });
}

export function summarize(values: readonly number[]): Summary {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (index: number): number => sorted[index] ?? Number.NaN;
  const middle = (sorted.length - 1) / 2;
  return {
    median: (at(Math.floor(middle)) + at(Math.ceil(middle))) / 2,
    low: at(0),
    high: at(sorted.length - 1),
  };
}

/** A number with three significant digits. */
export function format(value: number): string {
  return `${Number(value.toPrecision(3))}`;
}

/** "0.58 (0.53 – 0.6)", or only the number if there was one run. */
export function formatSummary({ median, low, high }: Summary): string {
  return low === high ? format(median) : `${format(median)} (${format(low)} – ${format(high)})`;
}

/** Undefined if a figure that the aim is about was not measured, or the ratio does not exist. */
function judge(aim: Aim, figures: readonly Figure[]): Verdict | undefined {
  const { what, unit, side = 'walcade', of, atMost, atLeast } = aim;
  const figure = find(figures, { what, side, unit });
  if (figure === undefined) return undefined;
  const divisor = of && find(figures, { what, side, unit, ...of });
  if (of !== undefined && divisor === undefined) return undefined;
  const reached = divisor === undefined ? summarize(figure.values) : divide(figure, divisor);
  if (reached === undefined) return undefined;
  const name = [of?.side, of?.what].filter((part) => part !== undefined).join(', ');
  const wish = atMost === undefined ? `≥ ${atLeast}` : `≤ ${atMost}`;
  const bound = atMost ?? atLeast ?? Number.NaN;
  const isMet = atMost === undefined ? reached.median >= bound : reached.median <= bound;
  return {
    aim: name === '' ? wish : `${wish} of ${name}`,
    outcome: isMet ? 'met' : 'missed',
    reached,
    side,
    limit: divisor === undefined ? bound : bound * summarize(divisor.values).median,
  };
}

/**
 * Run by run, since A and B of one run stood under the same conditions. Undefined if there is no
 * ratio: something was divided by nothing.
 */
function divide(figure: Figure, divisor: Figure): Summary | undefined {
  const ratios = figure.values.map((value, run) => value / (divisor.values[run] ?? Number.NaN));
  return ratios.every(Number.isFinite) ? summarize(ratios) : undefined;
}

function find(
  figures: readonly Figure[],
  { what, side, unit }: Pick<Figure, 'what' | 'side' | 'unit'>,
): Figure | undefined {
  return figures.find((f) => f.what === what && f.side === side && f.unit === unit);
}
