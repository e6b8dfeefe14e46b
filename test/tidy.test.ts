/**
 * The habits of the code that a machine can check: what each file opens with, how long it is,
 * how messages are worded, that nothing is dead, switched off or left for later in silence.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  ROOT,
  type SourceFile,
  importsOf,
  isTest,
  lineAt,
  listFiles,
  readSources,
  stringsOfCalls,
} from './harness/source-text.ts';

const LINE_COLUMNS_MAX = 100;
const FILE_LINES_MAX = 400;
const HEADER_LINES_MAX = 10;

/** Where the program starts; everything else of src is reached from here. */
const ENTRY_POINTS = ['src/cli/main.ts'];

/** PostgreSQL's error message style guide, and ours. */
const BANNED_IN_MESSAGES = [
  /\b(?:unable|bad|illegal|unknown)\b/i,
  /\bfailed to\b/i,
  /\b\w+n't\b|\b(?:it|that|there|what)'s\b|\b\w+'(?:re|ve|ll)\b/i,
];

const program = readSources('src').filter(({ path }) => !/\.(?:test|d)\.ts$/.test(path));
const everything = ['src', 'test', 'demo', 'bench'].flatMap((folder) => readSources(folder));

test('every file opens with a comment of at most ten lines that says what it is for', () => {
  assert.deepEqual(
    everything.flatMap(({ path, text }) => {
      const header = /^(?:#!.*\n)?\/\*\*([\s\S]*?)\*\//.exec(text)?.[1];
      if (header === undefined) return [`${path} has no header comment`];
      const lines = header.split('\n').filter((line) => line.trim() !== '');
      return lines.length <= HEADER_LINES_MAX ? [] : [`${path}: ${lines.length} lines of header`];
    }),
    [],
  );
});

test(`no line is longer than ${LINE_COLUMNS_MAX} columns`, () => {
  const offences = everything.flatMap(({ path, text }) =>
    text
      .split('\n')
      .map((line, index) => ({ columns: Array.from(line).length, at: `${path}:${index + 1}` }))
      .filter(({ columns }) => columns > LINE_COLUMNS_MAX)
      .map(({ columns, at }) => `${at} has ${columns} columns`),
  );
  assert.deepEqual(offences, []);
});

test(`no file is longer than ${FILE_LINES_MAX} lines`, () => {
  assert.deepEqual(
    everything
      .map(({ path, text }) => ({ path, lines: text.split('\n').length - 1 }))
      .filter(({ lines }) => lines > FILE_LINES_MAX)
      .map(({ path, lines }) => `${path} has ${lines} lines`),
    [],
  );
});

test('messages follow the style guide of PostgreSQL', () => {
  assert.deepEqual(
    messagesOf(program).flatMap(({ at, message }) =>
      BANNED_IN_MESSAGES.filter((banned) => banned.test(message)).map(
        (banned) => `${at}: "${message}" has ${banned.exec(message)?.[0]}`,
      ),
    ),
    [],
  );
});

test('a message is one line that opens in lower case and ends without a period', () => {
  const offences = program.flatMap((source) =>
    stringsOfCalls(source, /new WalcadeError|\blog\.(?:debug|log|warning)/)
      // Of a message that is put together elsewhere, the first string here is another part.
      .filter(({ before }) => /^\s*(?:[\w.]+,\s*)?$/.test(before))
      .flatMap(({ line, strings: [message = ''] }) => {
        const opensLikeSentence = /^[A-Z][a-z]+[ .,]/.test(message);
        const isTidy = !opensLikeSentence && !/\.$|\\n/.test(message);
        return isTidy ? [] : [`${source.path}:${line}: "${message}"`];
      }),
  );
  assert.deepEqual(offences, []);
});

test('what is left for later names its issue', () => {
  const later = [['TO', 'DO'].join(''), ['FIX', 'ME'].join('')].join('|');
  const unnamed = new RegExp(`\\b(?:${later})\\b(?!\\(#\\d+\\))`);
  assert.deepEqual(placesOf(everything, unnamed, 'text'), []);
});

test('no test is singled out or switched off', () => {
  const tests = everything.filter(({ path }) => path.startsWith('test/') || isTest(path));
  const switched = /\b(?:test|it|describe|suite|t)\.(?:only|skip|todo)\b|\b(?:only|skip|todo): /;
  assert.deepEqual(placesOf(tests, switched, 'code'), []);
});

test('every file of the program is reached from its entry point', () => {
  const imports = new Map(program.map((source) => [source.path, importsOf(source)]));
  const reached = new Set(ENTRY_POINTS);
  for (const path of reached) for (const next of imports.get(path) ?? []) reached.add(next);
  assert.deepEqual(
    program.map(({ path }) => path).filter((path) => !reached.has(path)),
    [],
  );
});

test('every file of the harness is used by a test', () => {
  const used = new Set(everything.flatMap((source) => importsOf(source)));
  assert.deepEqual(
    listFiles('test/harness').filter((path) => !used.has(path) && !isTest(path)),
    [],
  );
});

test('no file names a path of one machine', () => {
  const home = new RegExp(`(?<![\\w.])/(?:${['home', 'Users', 'root', 'work'].join('|')})/\\w`);
  const offences = listFiles('.')
    .filter((path) => /\.(?:ts|mjs|json|md|txt|sh)$|^bin\/|^\.ci\//.test(path))
    .filter((path) => !path.endsWith('package-lock.json'))
    .filter((path) => home.test(readFileSync(join(ROOT, path), 'utf8')));
  assert.deepEqual(offences, []);
});

/** The strings in errors and log entries, each with its place. */
function messagesOf(sources: readonly SourceFile[]): { at: string; message: string }[] {
  const callee = /new (?:\w+Error|ConnectionLost)|\blog\.\w+|#log\.\w+/;
  return sources.flatMap((source) =>
    stringsOfCalls(source, callee).flatMap(({ line, strings }) =>
      strings.map((message) => ({ at: `${source.path}:${line}`, message })),
    ),
  );
}

function placesOf(
  sources: readonly SourceFile[],
  pattern: RegExp,
  part: 'text' | 'code',
): string[] {
  return sources.flatMap((source) =>
    [...source[part].matchAll(new RegExp(pattern, 'g'))].map(
      ({ index }) => `${source.path}:${lineAt(source.text, index)}`,
    ),
  );
}
