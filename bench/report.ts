/** A result as text for a terminal, and as a table of a Markdown document. */
import type { BenchResult, Machine } from './frame.ts';
import {
  type Row,
  type Verdict,
  format,
  formatSummary,
  rowsOf,
  sidesOf,
  summarize,
} from './summary.ts';

/** What `npm run bench` prints of a bench: each figure on a line of its own, then the verdicts. */
export function resultText(result: BenchResult): string {
  const lines = rowsOf(result).flatMap((row) => [
    `  ${row.what}, ${row.unit}`,
    ...[...row.cells].map(([side, cell]) => `    ${side.padEnd(28)} ${formatSummary(cell)}`),
    ...ratiosOf(row).map((ratio) => `    ${'ratio'.padEnd(28)} ${ratio}`),
    ...row.verdicts.map((verdict) => `    ${'aim'.padEnd(28)} ${verdictText(verdict)}`),
  ]);
  return `${lines.join('\n')}\n(${result.conditions}; ${machineText(result)})\n`;
}

/** A table with a line for each case and unit and a column for each side. */
export function resultTable(result: BenchResult): string {
  const sides = sidesOf(result);
  const hasRatios = sides.length > 1;
  const heading = ['', ...sides, ...(hasRatios ? ['ratio'] : []), 'aim'];
  const rows = rowsOf(result).map((row) => [
    `${row.what}, ${row.unit}`,
    ...sides.map((side) => cellText(row, side)),
    ...(hasRatios ? [ratiosOf(row).join('; ')] : []),
    row.verdicts.map((verdict) => emphasized(verdictText(verdict))).join('; '),
  ]);
  const lines = [heading, heading.map(() => '---'), ...rows];
  const table = lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n');
  return `${table}\n\nConditions: ${result.conditions}. ${machineText(result)}.`;
}

function cellText(row: Row, side: string): string {
  const cell = row.cells.get(side);
  return cell === undefined ? '' : formatSummary(cell);
}

function ratiosOf({ ratios }: Row): string[] {
  return [...ratios].map(([side, ratio]) => {
    return ratios.size > 1 ? `${formatSummary(ratio)} of ${side}` : formatSummary(ratio);
  });
}

function verdictText({ aim, outcome, reached }: Verdict): string {
  return outcome === 'met' ? `${aim}: met` : `${aim}: missed (${format(reached.median)})`;
}

function emphasized(text: string): string {
  return text.replace(': missed', ': **missed**');
}

function machineText({ machine, date, figures }: BenchResult): string {
  const { cores, processor, memoryGb, kernel, node }: Machine = machine;
  const runs = summarize(figures.map(({ values }) => values.length));
  return (
    `Median and range of ${runs.high} runs on ${date}, ${cores} cores of ${processor}, ` +
    `${memoryGb} GB, Linux ${kernel}, Node.js ${node}`
  );
}
