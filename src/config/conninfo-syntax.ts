/**
 * The two spellings of a connection string, keyword/value and URI, as pairs of keyword and value.
 *
 * Only syntax: that a keyword exists and what its value means is the business of conninfo.ts.
 * Both readers follow fe-connect.c, conninfo_parse() and conninfo_uri_parse_options(), including
 * the words of their messages, so that a string means here what it means to libpq.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

/** Keyword to value, in the order of first mention; the last value of a keyword wins. */
export type ConninfoPairs = Map<string, string>;

const URI_PREFIX = /^postgres(?:ql)?:\/\//;

/** Reads either form. Throws 42601 where the syntax is broken. */
export function parseConninfoPairs(text: string): ConninfoPairs {
  if (text.includes('\0')) throw syntaxError('connection info string contains a null character');
  return URI_PREFIX.test(text) ? parseUri(text) : parseKeywordValue(text);
}

/**
 * The pairs as a keyword/value connection string, values quoted where they must be; the inverse
 * of `parseConninfoPairs` (fe_utils/string_utils.c, appendConnStrVal()).
 */
export function formatConninfo(pairs: Readonly<Record<string, string>>): string {
  return Object.entries(pairs)
    .map(([keyword, value]) => `${keyword}=${quoteValue(value)}`)
    .join(' ');
}

function quoteValue(value: string): string {
  if (/^[A-Za-z0-9_.,:/@+-]+$/.test(value)) return value;
  return `'${value.replace(/['\\]/g, '\\$&')}'`;
}

const SPACE = /[ \t\n\v\f\r]/;

function parseKeywordValue(text: string): ConninfoPairs {
  const pairs: ConninfoPairs = new Map();
  let at = 0;
  const isSpace = (): boolean => at < text.length && SPACE.test(text.charAt(at));
  const skipSpaces = (): void => {
    while (isSpace()) at++;
  };
  for (;;) {
    skipSpaces();
    if (at === text.length) return pairs;
    const start = at;
    while (at < text.length && text[at] !== '=' && !isSpace()) at++;
    const keyword = text.slice(start, at);
    skipSpaces();
    if (text[at] !== '=') {
      throw syntaxError(`missing "=" after "${keyword}" in connection info string`);
    }
    at++;
    skipSpaces();
    let value = '';
    const isQuoted = text[at] === "'";
    if (isQuoted) at++;
    for (;;) {
      if (at === text.length) {
        if (!isQuoted) break;
        throw syntaxError('unterminated quoted string in connection info string');
      }
      if (isQuoted ? text[at] === "'" : isSpace()) {
        at++;
        break;
      }
      if (text[at] === '\\') at++;
      value += text.charAt(at);
      if (at < text.length) at++;
    }
    pairs.set(keyword, value);
  }
}

function parseUri(uri: string): ConninfoPairs {
  const pairs: ConninfoPairs = new Map();
  const setUnlessEmpty = (keyword: string, encoded: string): void => {
    if (encoded !== '') pairs.set(keyword, decodePercent(encoded));
  };
  let at = URI_PREFIX.exec(uri)?.[0].length ?? 0;
  const credentials = /^([^:@/]*)(?::([^@/]*))?@/.exec(uri.slice(at));
  if (credentials) {
    setUnlessEmpty('user', credentials[1] ?? '');
    setUnlessEmpty('password', credentials[2] ?? '');
    at += credentials[0].length;
  }
  const { hosts, ports, end } = parseUriHosts(uri, at);
  setUnlessEmpty('host', hosts.join(','));
  setUnlessEmpty('port', ports.join(','));
  const rest = uri.slice(end);
  const queryAt = rest.indexOf('?');
  const path = queryAt < 0 ? rest : rest.slice(0, queryAt);
  setUnlessEmpty('dbname', path.slice(1));
  if (queryAt >= 0) parseUriQuery(rest.slice(queryAt + 1), pairs);
  return pairs;
}

function parseUriHosts(
  uri: string,
  start: number,
): { hosts: string[]; ports: string[]; end: number } {
  const hosts: string[] = [];
  const ports: string[] = [];
  let at = start;
  for (;;) {
    let host: string;
    if (uri[at] === '[') {
      const close = uri.indexOf(']', at);
      if (close < 0) {
        throw syntaxError(
          'end of string reached when looking for matching "]" in IPv6 host address in URI',
        );
      }
      host = uri.slice(at + 1, close);
      if (host === '') throw syntaxError('IPv6 host address may not be empty in URI');
      at = close + 1;
      const next = uri.charAt(at);
      if (next !== '' && !':/?,'.includes(next)) {
        throw syntaxError(
          `unexpected character "${next}" at position ${at + 1} in URI (expected ":" or "/")`,
        );
      }
    } else {
      host = /^[^:/?,]*/.exec(uri.slice(at))?.[0] ?? '';
      at += host.length;
    }
    let port = '';
    if (uri[at] === ':') {
      port = /^[^/?,]*/.exec(uri.slice(at + 1))?.[0] ?? '';
      at += 1 + port.length;
    }
    hosts.push(host);
    ports.push(port);
    if (uri[at] !== ',') return { hosts, ports, end: at };
    at++;
  }
}

function parseUriQuery(query: string, pairs: ConninfoPairs): void {
  if (query === '') return;
  const parameters = query.split('&');
  // libpq stops at the end of the string, so one "&" may end the query.
  if (parameters.at(-1) === '') parameters.pop();
  for (const parameter of parameters) {
    const [keyword = '', value, extra] = parameter.split('=');
    if (extra !== undefined) {
      throw syntaxError(`extra key/value separator "=" in URI query parameter: "${keyword}"`);
    }
    if (value === undefined) {
      throw syntaxError(`missing key/value separator "=" in URI query parameter: "${keyword}"`);
    }
    const name = decodePercent(keyword);
    const decoded = decodePercent(value);
    // JDBC's spelling, which libpq accepts in a URI.
    if (name === 'ssl' && decoded === 'true') pairs.set('sslmode', 'require');
    else pairs.set(name, decoded);
  }
}

/** fe-connect.c, conninfo_uri_decode(); what is not UTF-8 after decoding is refused as well. */
function decodePercent(text: string): string {
  if (/%(?![0-9A-Fa-f]{2})/.test(text)) {
    throw syntaxError(`invalid percent-encoded token: "${text}"`);
  }
  if (text.includes('%00')) {
    throw syntaxError(`forbidden value %00 in percent-encoded value: "${text}"`);
  }
  try {
    return decodeURIComponent(text);
  } catch (cause) {
    throw syntaxError(`invalid percent-encoded token: "${text}"`, cause);
  }
}

function syntaxError(message: string, cause?: unknown): WalcadeError {
  return new WalcadeError(SQLSTATE.SYNTAX_ERROR, message, { cause });
}
