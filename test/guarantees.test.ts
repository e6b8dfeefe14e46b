/**
 * docs/guarantees.md promises nothing that no test shows: each line names its test, and that test
 * exists under exactly that name.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { ROOT } from './harness/source-text.ts';

/** A guarantee, and indented below it each test that shows it: `file`: "name". */
const PROMISE = /^- (?!`)/;
const PROOF = /^ {2}- `([^`]+)`: "(.+)"$/;

const lines = readFileSync(join(ROOT, 'docs/guarantees.md'), 'utf8').split('\n');

test('every guarantee names a test', () => {
  const unproven = lines.filter((line, index) => {
    if (!PROMISE.test(line)) return false;
    let after = index + 1;
    while (/^ {2}\S/.test(lines[after] ?? '') && !/^ {2}- /.test(lines[after] ?? '')) after += 1;
    return !PROOF.test(lines[after] ?? '');
  });
  assert.deepEqual(unproven, []);
  assert.ok(lines.some((line) => PROMISE.test(line)));
});

test('every test that a guarantee names exists', () => {
  const named = lines.filter((line) => /^ {2}- /.test(line));
  const missing = named.filter((line) => {
    const [, path = '', name = ''] = PROOF.exec(line) ?? [];
    const file = join(ROOT, path);
    if (path === '' || !existsSync(file)) return true;
    return !new RegExp(`test\\(\\s*['"\`]${escape(name)}['"\`],`).test(readFileSync(file, 'utf8'));
  });
  assert.deepEqual(missing, []);
});

function escape(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
