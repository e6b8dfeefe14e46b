/** Results on disk: bench/results/NAME.json, as the last full run of each bench gave them. */
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BenchResult } from './frame.ts';

const DIRECTORY = fileURLToPath(new URL('results/', import.meta.url));

export async function writeResult(result: BenchResult): Promise<void> {
  await mkdir(DIRECTORY, { recursive: true });
  const text = JSON.stringify(result, undefined, 1);
  await writeFile(join(DIRECTORY, `${result.name}.json`), `${text}\n`);
}

export async function readResults(): Promise<BenchResult[]> {
  const names = (await readdir(DIRECTORY)).filter((name) => name.endsWith('.json')).sort();
  const texts = await Promise.all(names.map((name) => readFile(join(DIRECTORY, name), 'utf8')));
  return texts.map((text) => JSON.parse(text) as BenchResult);
}
