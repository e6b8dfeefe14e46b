/**
 * Draws docs/performance.md: each bench has a place between two marks there, for its question, its
 * plot and its table; the text around them is written by hand. Plots go to docs/plots.
 */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchResult } from './frame.ts';
import { plot } from './plot.ts';
import { resultTable } from './report.ts';

const DOCUMENT = fileURLToPath(new URL('../docs/performance.md', import.meta.url));
const PLOTS = fileURLToPath(new URL('../docs/plots/', import.meta.url));

export async function drawDocument(results: readonly BenchResult[]): Promise<void> {
  let text = await readFile(DOCUMENT, 'utf8');
  await mkdir(PLOTS, { recursive: true });
  for (const result of results) {
    text = replacePlace(text, result);
    await writeFile(join(PLOTS, `${result.name}.svg`), plot(result));
  }
  await writeFile(DOCUMENT, text);
}

/** The document with a bench's place filled anew. */
export function replacePlace(document: string, result: BenchResult): string {
  const begin = `<!-- bench ${result.name} -->`;
  const end = `<!-- end ${result.name} -->`;
  const from = document.indexOf(begin);
  const to = document.indexOf(end);
  if (from < 0 || to < from) throw new Error(`${DOCUMENT} has no place for ${result.name}`);
  const image = `![${result.name}: ${result.question}](plots/${result.name}.svg)`;
  const place = `\n\n**${result.question}**\n\n${image}\n\n${resultTable(result)}\n\n`;
  return `${document.slice(0, from + begin.length)}${place}${document.slice(to)}`;
}
