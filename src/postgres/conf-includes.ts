/**
 * Directives of postgresql.conf that include other files (manual, "Managing Configuration File
 * Contents"). A base backup brings them along and not always what they include, and one that leads
 * to nothing ends every start of the server.
 *
 * Files are taken as bytes, one character each: what is not changed stays as it is, whatever its
 * encoding.
 */
import fs from 'node:fs/promises';
import { dirname, join, resolve, sep } from 'node:path';
import { accessing } from '../base/file-access-error.ts';
import { readRegularFile } from './file-changes.ts';

const DIRECTIVE = /^[ \t]*(include(?:_dir|_if_exists)?)(?=[ \t='])[ \t]*=?[ \t]*/i;
const VALUE = /^(?:'((?:[^'\\]|''|\\.)*)'|([A-Za-z_\x80-\xff][\w\x80-\xff.:/-]*))/;

/**
 * The new contents of `confFile`, and of those that it includes in turn, in which a directive leads
 * to nothing: by path, with that directive commented out. Only files in `dataDirectory` are ours to
 * change.
 */
export async function withoutMissingIncludes(
  confFile: string,
  dataDirectory: string,
): Promise<Map<string, Buffer>> {
  const changes = new Map<string, Buffer>();
  const within = (await fs.realpath(dataDirectory)) + sep;
  const pending = [confFile];
  const seen = new Set<string>();
  for (const named of pending) {
    const file = await realPath(named);
    if (file === undefined || seen.has(file) || !file.startsWith(within)) continue;
    seen.add(file);
    const bytes = await accessing('read file', file, () => readRegularFile(file));
    if (bytes === undefined) continue;
    const content = bytes.toString('latin1');
    const lines = content.split('\n');
    const usable: string[] = [];
    for (const line of lines) {
      const directive = parseDirective(line, dirname(named));
      const found = directive === undefined ? [] : await included(directive);
      usable.push(found === undefined ? `#${line}  # not on this machine` : line);
      pending.push(...(found ?? []));
    }
    const text = usable.join('\n');
    if (text !== content) changes.set(file, Buffer.from(text, 'latin1'));
  }
  return changes;
}

interface Directive {
  readonly kind: 'include' | 'include_dir' | 'include_if_exists';
  readonly path: string;
}

/** What a line in a file of `directory` includes; paths are relative to the file they are in. */
function parseDirective(line: string, directory: string): Directive | undefined {
  const start = DIRECTIVE.exec(line);
  const [, quoted, plain] = VALUE.exec(line.slice(start?.[0].length)) ?? [];
  const name = quoted?.replace(/''|\\(.)/g, (pair, escaped?: string) => escaped ?? pair[0] ?? '');
  const bytes = name ?? plain;
  if (start === null || bytes === undefined) return undefined;
  const path = Buffer.from(bytes, 'latin1').toString('utf8');
  const kind = start[1]?.toLowerCase() as Directive['kind'];
  return { kind, path: resolve(directory, path) };
}

/** The files that are included; undefined if what must be there is not. */
async function included({ kind, path }: Directive): Promise<string[] | undefined> {
  if (kind === 'include_if_exists') return [path];
  if ((await realPath(path)) === undefined) return undefined;
  if (kind === 'include') return [path];
  const names = await fs.readdir(path).catch(() => []);
  return names.filter((name) => /^[^.].*\.conf$/.test(name)).map((name) => join(path, name));
}

/** Undefined for what is not there. */
async function realPath(path: string): Promise<string | undefined> {
  return fs.realpath(path).catch(() => undefined);
}
