/** What the tests of the source take for code, for a string and for an import. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { importsOf, parseSource, stringsOfCalls } from './harness/source-text.ts';

const SOURCE = parseSource(
  'src/wal/example.ts',
  String.raw`
import { lsn } from './lsn.ts';
import type { Clock } from '../base/clock.ts';
import 'node:fs';
export * from "node:net";
// import x from './comment.ts'; an apostrophe's quote
const pattern = /['"\`/]\/(/g;
const half = 4 / 2 / 1;
const text = \`a $\{nested(\`b $\{'c'} d\`)} setTimeout(\`;
throw new WalcadeError(SQLSTATE.X, \`message $\{value(1)} here\`, { hint: 'A hint (or two).' });
const later = await import('./later.ts');
`
    .replaceAll('\\`', '`')
    .replaceAll('$\\{', '${'),
);

test('imports are found in each form, and not in comments', () => {
  assert.deepEqual(importsOf(SOURCE), [
    'src/wal/lsn.ts',
    'src/base/clock.ts',
    'node:fs',
    'node:net',
    'src/wal/later.ts',
  ]);
});

test('strings, templates, comments and regular expressions are no code', () => {
  assert.equal(SOURCE.code.length, SOURCE.text.length);
  assert.doesNotMatch(SOURCE.code, /setTimeout|apostrophe|comment|hint \(/);
  assert.match(SOURCE.code, /const half = 4 \/ 2 \/ 1;/);
  assert.match(SOURCE.code, /nested\(/);
});

test('the strings of a call are those between its parentheses', () => {
  const calls = stringsOfCalls(SOURCE, /new WalcadeError/);
  assert.deepEqual(calls, [
    {
      line: 10,
      before: ' SQLSTATE.X, '.trimStart(),
      strings: ['message … here', 'A hint (or two).'],
    },
  ]);
});
