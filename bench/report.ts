/** Writes results into docs/performance.md: each bench has a place between two marks there. */
import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import type { BenchResult } from './bench.ts';
import { summary } from './summary.ts';

const PATH = fileURLToPath(new URL('../docs/performance.md', import.meta.url));

/** Replaces the tables of the benches that have run; the text around them is written by hand. */
export async function writePerformance(results: readonly BenchResult[]): Promise<void> {
  let text = await readFile(PATH, 'utf8');
  for (const result of results) {
    const begin = `<!-- bench ${result.name} -->`;
    const end = `<!-- end ${result.name} -->`;
    const from = text.indexOf(begin);
    const to = text.indexOf(end);
    if (from < 0 || to < 0) throw new Error(`${PATH} has no place for bench ${result.name}`);
    text = `${text.slice(0, from + begin.length)}\n${table(result)}\n${text.slice(to)}`;
  }
  await writeFile(PATH, text);
}

function table({ question, conditions, figures }: BenchResult): string {
  const rows = figures.map(({ what, unit, values }) => {
    const { median, low, high } = summary(values);
    return `| ${what} | ${unit} | ${median} | ${low} – ${high} |`;
  });
  const heading = ['| what | unit | median | range |', '|---|---|---|---|'];
  return `\n**${question}**\n\n${[...heading, ...rows].join('\n')}\n\nConditions: ${conditions}.\n`;
}
