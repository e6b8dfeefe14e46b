/**
 * What a bench is, and how one is run: a file bench/NAME.ts opens with its question and exports a
 * `Bench`, which the list in benches.ts names.
 *
 * A bench measures walcade beside something else in one run on one machine, each case in turn, and
 * gives figures: values of a side ("walcade", "PostgreSQL") in a case ("16 readers") and a unit
 * ("CPU s/GB"). Ratios, verdicts, tables and plots are made of them elsewhere.
 */
import { cpus, release, totalmem } from 'node:os';
import type { TestDirectory } from '../test/harness/test-directory.ts';

/** `full` is what is published, `short` a quick look, `smoke` seconds in a test. */
export type BenchLength = 'full' | 'short' | 'smoke';

export interface Bench {
  readonly name: string;
  readonly question: string;
  readonly aims: readonly Aim[];
  /** Makes its servers in the context's directory, measures, and gives the conditions. */
  run(context: BenchContext): Promise<string>;
}

/** What a figure ought to be: by itself, or divided by another of the same unit. */
export interface Aim {
  readonly what: string;
  readonly unit: string;
  /** Whose figure it is; walcade's if not given. */
  readonly side?: string;
  /** What it is divided by: another side's figure, or another case's. */
  readonly of?: { readonly side?: string; readonly what?: string };
  /** Its bound: one of the two. */
  readonly atMost?: number;
  readonly atLeast?: number;
}

/** The values of one side in one case, one for each run. */
export interface Figure {
  readonly what: string;
  readonly side: string;
  readonly unit: string;
  readonly values: number[];
}

/** What one measurement gives: values by unit. */
export type Readings = Readonly<Record<string, number>>;

export interface BenchContext {
  /** Servers made in it are stopped after the bench. */
  readonly tree: TestDirectory;
  readonly length: BenchLength;
  /** The value that fits this length. */
  readonly choose: <T>(values: Readonly<Record<BenchLength, T>>) => T;
  /**
   * Measures the sides in turn, A B, B A, …, after a round that does not count. `run` differs from
   * call to call and is good for names.
   */
  readonly alternate: (what: string, sides: Sides) => Promise<void>;
  /** Adds a value of each unit to the figures, for who measures in a way of its own. */
  readonly note: (what: string, side: string, readings: Readings) => void;
}

/** How each side is measured, by its name. */
export type Sides = Readonly<Record<string, (run: number) => Promise<Readings>>>;

/** A reading that is no figure: cores that the reading program used; said if it was the limit. */
export const READER_CORES = 'cores of the reader program';
const READER_CORES_MAX = 0.8;

const RUNS: Readonly<Record<BenchLength, number>> = { full: 5, short: 2, smoke: 1 };

export interface Machine {
  readonly processor: string;
  readonly cores: number;
  readonly memoryGb: number;
  readonly kernel: string;
  readonly node: string;
}

export interface BenchResult {
  readonly name: string;
  readonly question: string;
  readonly conditions: string;
  readonly date: string;
  readonly machine: Machine;
  readonly aims: readonly Aim[];
  readonly figures: readonly Figure[];
}

/** A bench that this machine cannot run: it lacks a program, and the message says which. */
export class ProgramMissing extends Error {
  constructor(program: string) {
    super(`this bench needs ${program} of an installed PostgreSQL`);
  }
}

/** Runs a bench in `tree`, which stays the caller's. */
export async function runBench(
  bench: Bench,
  { tree, length }: { tree: TestDirectory; length: BenchLength },
): Promise<BenchResult> {
  const noted = new Map<string, Figure>();
  const note: BenchContext['note'] = (what, side, readings) => {
    for (const [unit, value] of Object.entries(readings)) {
      const key = JSON.stringify([what, side, unit]);
      const figure = noted.get(key) ?? { what, side, unit, values: [] };
      figure.values.push(value);
      noted.set(key, figure);
    }
  };
  const alternate: BenchContext['alternate'] = async (what, sides) => {
    const entries = Object.entries(sides);
    if (length !== 'smoke') for (const [, measure] of entries) await measure(0);
    for (let run = 1; run <= RUNS[length]; run++) {
      const inTurn = run % 2 === 1 ? entries : entries.toReversed();
      const readings = new Map<string, Readings>();
      for (const [side, measure] of inTurn) readings.set(side, await measure(run));
      for (const [side] of entries) note(what, side, readings.get(side) ?? {});
    }
  };
  const conditions = await bench.run({
    tree,
    length,
    choose: (values) => values[length],
    alternate,
    note,
  });
  const all = [...noted.values()];
  return {
    name: bench.name,
    question: bench.question,
    conditions: `${conditions}${readersSentence(all)}`,
    date: new Date().toISOString().slice(0, 10),
    machine: machine(),
    aims: bench.aims,
    figures: all.filter(({ unit }) => unit !== READER_CORES),
  };
}

/** Whether the reading program may have been what was measured. */
function readersSentence(figures: readonly Figure[]): string {
  const readers = figures.filter(({ unit }) => unit === READER_CORES);
  if (readers.length === 0) return '';
  const most = (figure: Figure): number => Math.max(...figure.values);
  const percent = (cores: number): string => `${Math.round(cores * 100)} %`;
  const limits = readers.filter((figure) => most(figure) > READER_CORES_MAX);
  if (limits.length === 0) {
    return `; the reader program used at most ${percent(Math.max(...readers.map(most)))} of a core`;
  }
  const cases = limits.map((figure) => `${figure.what}, ${figure.side}: ${percent(most(figure))}`);
  return `; the reader program was a limit itself (of a core it used, ${cases.join('; ')})`;
}

function machine(): Machine {
  return {
    processor: cpus()[0]?.model ?? 'unnamed processor',
    cores: cpus().length,
    memoryGb: Math.round(totalmem() / 1e9),
    kernel: release(),
    node: process.version,
  };
}
