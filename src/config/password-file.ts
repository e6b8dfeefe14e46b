/**
 * Passwords from a password file (manual, "The Password File"): lines of
 * `hostname:port:database:username:password`, the first that matches wins.
 *
 * Read again at each connection, so that a changed password needs no reload. A file that others
 * can read is not used, as in libpq.
 */
import { readFile, stat } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { describeSystemError, systemErrorCode } from '../base/errors.ts';
import { isSocketDirectory } from './conninfo-addresses.ts';

export interface PasswordQuery {
  /** The host as in the connection string: a name, an address or a socket directory. */
  readonly host: string;
  readonly port: number;
  /** `replication` for a replication connection. */
  readonly database: string;
  readonly user: string;
}

export type PasswordLookup =
  | { readonly kind: 'found'; readonly password: string }
  | { readonly kind: 'no-match' }
  | { readonly kind: 'no-file' }
  /** The file exists and was not used; `warning` says why and is to be logged. */
  | { readonly kind: 'ignored'; readonly warning: string };

/** `~/.pgpass` of the operating system's user; $HOME is not asked, as no environment is. */
export function defaultPasswordFile(): string {
  return join(userInfo().homedir, '.pgpass');
}

/** Looks the password up in the file at `path` (fe-connect.c, passwordFromFile()). */
export async function readPasswordFile(
  path: string,
  query: PasswordQuery,
): Promise<PasswordLookup> {
  try {
    const status = await stat(path);
    if (!status.isFile()) {
      return { kind: 'ignored', warning: `password file "${path}" is not a plain file` };
    }
    if ((status.mode & 0o077) !== 0) {
      const warning =
        `password file "${path}" has group or world access; ` +
        'permissions should be u=rw (0600) or less';
      return { kind: 'ignored', warning };
    }
    const password = findPassword(await readFile(path, 'utf8'), query);
    return password === undefined ? { kind: 'no-match' } : { kind: 'found', password };
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return { kind: 'no-file' };
    const warning = `could not read password file "${path}": ${describeSystemError(error)}`;
    return { kind: 'ignored', warning };
  }
}

/**
 * The password of the first line of `content` that matches, or undefined. A Unix socket is
 * looked up as `localhost`, and by its directory too, which is how libpq names those outside
 * the default one.
 */
export function findPassword(content: string, query: PasswordQuery): string | undefined {
  const { host, port, database, user } = query;
  const hosts = isSocketDirectory(host) ? ['localhost', host] : [host];
  const wanted = [hosts, [String(port)], [database], [user]];
  for (const line of content.split('\n')) {
    if (line.startsWith('#')) continue;
    const fields = splitFields(line.replace(/\r+$/, ''));
    if (fields === undefined) continue;
    const { names, password } = fields;
    const matches = names.every(
      (name, index) => name === '*' || wanted[index]?.includes(unescape(name)),
    );
    if (matches) return unescape(password);
  }
  return undefined;
}

/** The four names, still escaped, and the password, which ends at the next bare colon. */
function splitFields(line: string): { names: string[]; password: string } | undefined {
  const fields = [''];
  for (let at = 0; at < line.length; at++) {
    if (line[at] === ':') {
      fields.push('');
      continue;
    }
    const length = line[at] === '\\' && at + 1 < line.length ? 2 : 1;
    fields.push((fields.pop() ?? '') + line.slice(at, at + length));
    at += length - 1;
  }
  const password = fields[4];
  return password === undefined ? undefined : { names: fields.slice(0, 4), password };
}

function unescape(field: string): string {
  return field.replace(/\\(.)/g, '$1');
}
