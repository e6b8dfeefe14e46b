/**
 * `npm run bench [-- --short] [-- fan-out ingest …]`: measures walcade beside PostgreSQL in one run
 * on one machine and prints medians, ranges and whether the aims are met.
 *
 * What is not short goes into bench/results/NAME.json, docs/plots and docs/performance.md. A bench
 * that ends with an error does not keep the next from running; the exit status is 1 then.
 */
import { TestDirectory } from '../test/harness/test-directory.ts';
import { BENCHES } from './benches.ts';
import { type Bench, type BenchResult, runBench } from './frame.ts';
import { drawDocument } from './document.ts';
import { resultText } from './report.ts';
import { readResults, writeResult } from './results.ts';

const args = process.argv.slice(2);
const isShort = args.includes('--short');
const names = args.filter((argument) => argument !== '--short');
for (const name of names) {
  if (BENCHES.some((bench) => bench.name === name)) continue;
  const known = BENCHES.map((bench) => bench.name).join(', ');
  process.stderr.write(`there is no bench "${name}"; there are ${known}\n`);
  process.exit(2);
}

for (const bench of BENCHES) {
  if (names.length > 0 && !names.includes(bench.name)) continue;
  process.stdout.write(`\n${bench.name}: ${bench.question}\n`);
  try {
    const result = await runInOwnDirectory(bench);
    process.stdout.write(resultText(result));
    if (isShort) continue;
    await writeResult(result);
    await drawDocument(await readResults());
  } catch (error) {
    process.exitCode = 1;
    process.stderr.write(`${bench.name} gave no result: ${String(error)}\n`);
  }
}

async function runInOwnDirectory(bench: Bench): Promise<BenchResult> {
  const tree = await TestDirectory.open();
  let hasFailed = true;
  try {
    const result = await runBench(bench, { tree, length: isShort ? 'short' : 'full' });
    hasFailed = false;
    return result;
  } finally {
    await tree.close({ hasFailed });
  }
}
