/**
 * What the tests of the source itself look at: files, imports, strings and calls.
 *
 * TypeScript 7 has no programming interface, so this reads just enough of the language: strings,
 * templates, comments and regular expressions are told from code, and the rest is left as text.
 */
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));

export interface SourceFile {
  /** Relative to the root of the checkout, with slashes: `src/wal/lsn.ts`. */
  readonly path: string;
  readonly text: string;
  /** The text with comments, and what stands in strings, blanked; of the same length. */
  readonly code: string;
  readonly strings: readonly StringLiteral[];
}

export interface StringLiteral {
  /** Where its quote opens in the text of the file. */
  readonly at: number;
  /** As written, without quotes; `${…}` in a template becomes `…`. */
  readonly value: string;
}

/** Every TypeScript file below `folder`, in the order of their paths. */
export function readSources(folder: string): SourceFile[] {
  return listFiles(folder)
    .filter((path) => path.endsWith('.ts'))
    .map((path) => parseSource(path, readFileSync(join(ROOT, path), 'utf8')));
}

/** Every file below `folder` that is not installed or built, relative to the root. */
export function listFiles(folder: string): string[] {
  const found: string[] = [];
  for (const entry of readdirSync(join(ROOT, folder), { withFileTypes: true })) {
    const path = folder === '.' ? entry.name : `${folder}/${entry.name}`;
    if (['node_modules', 'dist', '.git'].includes(entry.name) || path.startsWith('.dist-'))
      continue;
    if (entry.isDirectory()) found.push(...listFiles(path));
    else if (entry.isFile()) found.push(path);
  }
  return found.sort();
}

/** Whether a file is a test, beside what it tests. */
export function isTest(path: string): boolean {
  return path.endsWith('.test.ts');
}

/** What a file imports or re-exports: own files as paths like the file's own, else as written. */
export function importsOf({ path, code, strings }: SourceFile): string[] {
  return strings
    .filter(({ at }) => /(?:\bfrom|\bimport\s*\(?|\brequire\s*\()\s*$/.test(code.slice(0, at)))
    .map(({ value }) => {
      if (!value.startsWith('.')) return value;
      return relative(ROOT, resolve(ROOT, dirname(path), value)).replaceAll(sep, '/');
    });
}

/**
 * The strings among the arguments of each call whose callee, with `new` if any, matches; and the
 * code between the parenthesis and the first of them.
 */
export function stringsOfCalls(
  { code, strings, text }: SourceFile,
  callee: RegExp,
): { line: number; before: string; strings: string[] }[] {
  const calls = [...code.matchAll(new RegExp(`(?:${callee.source})\\(`, 'g'))];
  return calls.map((call) => {
    const from = call.index + call[0].length;
    const to = closingParenthesis(code, from);
    const inside = strings.filter(({ at }) => from <= at && at < to);
    return {
      line: lineAt(text, call.index),
      before: code.slice(from, inside[0]?.at ?? to),
      strings: inside.map(({ value }) => value),
    };
  });
}

export function lineAt(text: string, offset: number): number {
  return text.slice(0, offset).split('\n').length;
}

function closingParenthesis(code: string, from: number): number {
  let depth = 1;
  for (let at = from; at < code.length; at += 1) {
    if (code[at] === '(') depth += 1;
    if (code[at] === ')') depth -= 1;
    if (depth === 0) return at;
  }
  return code.length;
}

/** A source file of `text`, as if it were at `path`. */
export function parseSource(path: string, text: string): SourceFile {
  return { path, text, ...scan(text) };
}

/** A slash opens a regular expression only where a value may begin. */
const REGEX = [
  String.raw`(?<=(?:[=(,:[!&|?{};\n]|=>|\breturn)\s*)`,
  String.raw`\/(?![*/])(?:[^/\\[\n]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[dgimsuvy]*`,
].join('');

/** One alternative each: comments, quoted strings, regular expressions, what nests templates. */
const TOKEN = new RegExp(
  [
    String.raw`(?<comment>\/\/[^\n]*|\/\*[\s\S]*?\*\/)`,
    String.raw`(?<quoted>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")`,
    `(?<regex>${REGEX})`,
    '(?<mark>[`{}])',
  ].join('|'),
  'g',
);
const TEMPLATE_PART = /(?:[^`\\$]|\\[\s\S]|\$(?!\{))*(?:`|\$\{)/y;

function scan(text: string): { code: string; strings: StringLiteral[] } {
  const strings: StringLiteral[] = [];
  const blanks: [number, number][] = [];
  // What each open brace is: a block, or the hole of a template, which it then resumes.
  const braces: ('block' | { at: number; value: string })[] = [];
  const token = new RegExp(TOKEN);
  const readTemplate = (open: { at: number; value: string }, from: number): void => {
    TEMPLATE_PART.lastIndex = from;
    const part = TEMPLATE_PART.exec(text)?.[0] ?? '';
    const to = from + part.length;
    const ends = part.endsWith('`');
    const value = open.value + (ends ? part.slice(0, -1) : `${part.slice(0, -2)}…`);
    blanks.push([from, to - (ends ? 1 : 2)]);
    if (ends) strings.push({ at: open.at, value });
    else braces.push({ at: open.at, value });
    token.lastIndex = Math.max(to, from + 1);
  };
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const { comment, quoted, regex, mark } = match.groups ?? {};
    const [from, to] = [match.index, token.lastIndex];
    if (comment !== undefined) blanks.push([from, to]);
    if (regex !== undefined) blanks.push([from + 1, to - 1]);
    if (quoted !== undefined) {
      strings.push({ at: from, value: quoted.slice(1, -1) });
      blanks.push([from + 1, to - 1]);
    }
    if (mark === '`') readTemplate({ at: from, value: '' }, to);
    if (mark === '{') braces.push('block');
    if (mark === '}') {
      const open = braces.pop();
      if (open !== undefined && open !== 'block') readTemplate(open, to);
    }
  }
  let code = '';
  let copied = 0;
  for (const [from, to] of blanks.sort((a, b) => a[0] - b[0])) {
    code += text.slice(copied, from) + text.slice(from, to).replaceAll(/[^\n]/g, ' ');
    copied = to;
  }
  return { code: code + text.slice(copied), strings: strings.sort((a, b) => a.at - b.at) };
}
