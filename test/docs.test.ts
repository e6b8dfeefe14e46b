/**
 * The documentation says what is: what is generated is current, what is named exists.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { REFERENCE_FILE, parameterReference } from '../scripts/parameter-reference.ts';
import { ROOT, listFiles } from './harness/source-text.ts';

const DOCUMENTS = [
  'README.md',
  'ARCHITECTURE.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  ...listFiles('docs').filter((path) => path.endsWith('.md')),
];

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

test('docs/parameters.md is what npm run docs writes', () => {
  assert.equal(readFileSync(REFERENCE_FILE, 'utf8'), parameterReference());
});

test('every link in the documentation leads to a file that is there', () => {
  const broken = DOCUMENTS.flatMap((path) =>
    [...read(path).matchAll(/\]\((?!https?:|#)([^)#]+)/g)]
      .map(([, target = '']) => target)
      .filter((target) => !existsSync(join(ROOT, dirname(path), target)))
      .map((target) => `${path}: ${target}`),
  );
  assert.deepEqual(broken, []);
});

test('every npm script that the documentation names exists', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
  const named = DOCUMENTS.flatMap((path) =>
    [...read(path).matchAll(/npm run ([\w:-]+)/g)].map(([, name = '']) => ({ path, name })),
  );
  assert.deepEqual(
    named.filter(({ name }) => scripts[name] === undefined),
    [],
  );
});

test('every source file that the documentation names exists', () => {
  const missing = DOCUMENTS.flatMap((path) =>
    [...read(path).matchAll(/`((?:src|test|demo|bench|scripts|docs)\/[\w./-]+)`/g)]
      .map(([, name = '']) => name)
      .filter((name) => !existsSync(join(ROOT, name)))
      .map((name) => `${path}: ${name}`),
  );
  assert.deepEqual(missing, []);
});
