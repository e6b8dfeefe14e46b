/**
 * Every bench in its shortest form: it gives figures of walcade and of what stands beside it. How
 * fast either is, is not a matter for a test.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { BENCHES } from '../../bench/benches.ts';
import { type Bench, type BenchResult, ProgramMissing, runBench } from '../../bench/frame.ts';
import { rowsOf } from '../../bench/summary.ts';
import { TestDirectory } from '../harness/test-directory.ts';

for (const bench of BENCHES) {
  test(`the bench ${bench.name} gives figures for both sides`, async (t) => {
    const result = await runSmoke(t, bench);
    if (result === undefined) return;
    const rows = rowsOf(result);
    const values = rows.flatMap(({ cells }) => [...cells.values()].map(({ median }) => median));
    // What a few readers add to the memory of a node may be less than nothing.
    assert.ok(values.every(Number.isFinite), values.join(' '));
    assert.ok(
      rows.some(({ ratios }) => ratios.size > 0),
      'two sides stand beside each other',
    );
    assert.ok(
      rows.some(({ verdicts }) => verdicts.length > 0),
      'an aim is compared with',
    );
  });
}

/** Undefined, which the output says, on a machine without a program that the bench needs. */
async function runSmoke(t: TestContext, bench: Bench): Promise<BenchResult | undefined> {
  const tree = await TestDirectory.create(t);
  try {
    return await runBench(bench, { tree, length: 'smoke' });
  } catch (error) {
    if (!(error instanceof ProgramMissing)) throw error;
    t.diagnostic(`not run: ${error.message}`);
    return undefined;
  }
}
