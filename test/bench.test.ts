/** What is shown of a bench's figures: medians, ratios, verdicts, plots and the document. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { BENCHES } from '../bench/benches.ts';
import { replacePlace } from '../bench/document.ts';
import type { Aim, BenchResult, Figure } from '../bench/frame.ts';
import { plot } from '../bench/plot.ts';
import { resultTable, resultText } from '../bench/report.ts';
import { rowsOf, sidesOf, summarize } from '../bench/summary.ts';
import { ROOT } from './harness/source-text.ts';

const WHAT = '16 readers';
const UNIT = 'CPU s/GB';

function result(figures: Figure[], aims: Aim[] = []): BenchResult {
  return {
    name: 'fan-out',
    question: 'What does it cost to serve < 17 & > 15 readers?',
    conditions: 'on a quiet machine',
    date: '2026-01-02',
    machine: { processor: 'abacus', cores: 2, memoryGb: 16, kernel: '6.1', node: 'v22.0.0' },
    aims,
    figures,
  };
}

function figure(side: string, ...values: number[]): Figure {
  return { what: WHAT, side, unit: UNIT, values };
}

test('a median is the middle value, or lies between the two in the middle', () => {
  assert.deepEqual(summarize([3, 1, 2]), { median: 2, low: 1, high: 3 });
  assert.deepEqual(summarize([4, 1]), { median: 2.5, low: 1, high: 4 });
});

test('walcade comes first, and is divided by the others run by run', () => {
  const measured = result([figure('PostgreSQL', 1, 2, 10), figure('walcade', 0.5, 1, 5)]);
  assert.deepEqual(sidesOf(measured), ['walcade', 'PostgreSQL']);
  const [row] = rowsOf(measured);
  assert.deepEqual(row?.ratios.get('PostgreSQL'), { median: 0.5, low: 0.5, high: 0.5 });
});

test('nothing divided by nothing is no ratio', () => {
  const measured = result([figure('walcade', 0, 0), figure('PostgreSQL', 0, 1)]);
  assert.equal(rowsOf(measured)[0]?.ratios.size, 0);
  assert.doesNotMatch(`${resultText(measured)}${plot(measured)}`, /NaN|Infinity/);
});

test('an aim is met at its bound, missed beyond it, and silent about what was not measured', () => {
  const figures = [figure('walcade', 0.6), figure('PostgreSQL', 1)];
  const of = { side: 'PostgreSQL' };
  const about = { what: WHAT, unit: UNIT };
  const outcomes = (aim: Aim): string[] =>
    rowsOf(result(figures, [aim])).flatMap((row) => row.verdicts.map((v) => v.outcome));
  assert.deepEqual(outcomes({ ...about, of, atMost: 0.6 }), ['met']);
  assert.deepEqual(outcomes({ ...about, of, atMost: 0.5 }), ['missed']);
  assert.deepEqual(outcomes({ ...about, atLeast: 0.6 }), ['met']);
  assert.deepEqual(outcomes({ ...about, atLeast: 0.7 }), ['missed']);
  assert.deepEqual(outcomes({ ...about, of: { side: 'pg_receivewal' }, atMost: 1 }), []);
  assert.deepEqual(outcomes({ ...about, what: '64 readers', atMost: 1 }), []);
});

test('a table and a terminal show medians, ranges, ratios and verdicts', () => {
  const aim = { what: WHAT, unit: UNIT, of: { side: 'PostgreSQL' }, atMost: 0.4 };
  const measured = result([figure('walcade', 0.4, 0.6), figure('PostgreSQL', 1, 1)], [aim]);
  assert.match(
    resultTable(measured),
    /^\| 16 readers, CPU s\/GB \| 0\.5 \(0\.4 – 0\.6\) \| 1 \| .* \*\*missed\*\* \(0\.5\) \|$/m,
  );
  assert.match(resultText(measured), /aim +≤ 0\.4 of PostgreSQL: missed \(0\.5\)$/m);
});

test('a plot has a bar for each side, a whisker where runs differ, and no raw markup', () => {
  const svg = plot(result([figure('walcade', 0.4, 0.6), figure('PostgreSQL', 1, 1)]));
  assert.equal(svg.match(/class="whisker" d=/g)?.length, 1);
  assert.match(svg, /serve &lt; 17 &amp; &gt; 15 readers/);
  assert.doesNotMatch(svg, /NaN|undefined|Infinity/);
});

test('docs/performance.md has a place for each bench, in the order in which they run', () => {
  const text = readFileSync(join(ROOT, 'docs', 'performance.md'), 'utf8');
  const places = [...text.matchAll(/^<!-- bench ([\w-]+) -->$/gm)].map(([, name]) => name ?? '');
  const names = BENCHES.map(({ name }) => name);
  assert.deepEqual(
    places.filter((name) => names.includes(name)),
    names,
  );
});

test('a place is filled anew, and the text around it stays', () => {
  const document = 'before\n<!-- bench fan-out -->\nold\n<!-- end fan-out -->\nafter\n';
  const filled = replacePlace(document, result([figure('walcade', 1)]));
  assert.match(filled, /^before\n<!-- bench fan-out -->\n\n\*\*What/);
  assert.match(filled, /\(plots\/fan-out\.svg\)/);
  assert.match(filled, /\n<!-- end fan-out -->\nafter\n$/);
  assert.doesNotMatch(filled, /old/);
});
