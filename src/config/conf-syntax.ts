/**
 * The grammar of postgresql.conf (guc-file.l): text to settings, knowing no parameter.
 *
 * A line that is broken is reported and passed over; the next one is read again.
 */

export interface Setting {
  readonly name: string;
  readonly value: string;
  /** Counted from 1. */
  readonly line: number;
  /** Where in the text the name begins. */
  readonly start: number;
  /** Where the value ends, before blanks and a comment. */
  readonly end: number;
}

export interface SettingError {
  readonly line: number;
  /** The token that does not belong there; undefined if the line ended too early. */
  readonly token?: string;
}

type TokenKind = 'identifier' | 'string' | 'value' | 'equals' | 'error' | 'end-of-line';

interface Token {
  readonly kind: TokenKind;
  readonly text: string;
  readonly start: number;
  readonly end: number;
}

const LETTER = '[A-Za-z_\\u0080-\\u{10ffff}]';
const LETTER_OR_DIGIT = '[A-Za-z_0-9\\u0080-\\u{10ffff}]';
const IDENTIFIER = `${LETTER}${LETTER_OR_DIGIT}*`;

/** In the order of guc-file.l: the longest match wins, and of equal ones the first. */
const TOKENS: readonly (readonly [kind: TokenKind, pattern: RegExp])[] = [
  ['end-of-line', /\n/y],
  ['identifier', new RegExp(`${IDENTIFIER}(?:\\.${IDENTIFIER})?`, 'uy')],
  ['string', /'(?:[^'\\\n]|\\.|'')*'/uy],
  ['value', new RegExp(`${LETTER}(?:${LETTER_OR_DIGIT}|[-._:/])*`, 'uy')],
  ['value', /[-+]?(?:0x[0-9a-fA-F]+|\d+)[a-zA-Z]*/y],
  ['value', /[-+]?\d*\.\d*(?:[Ee][-+]?\d+)?/y],
  ['equals', /=/y],
  ['error', /./uy],
];

const BLANKS_AND_COMMENT = /[ \t\r]*(?:#[^\n]*)?/y;

/** All settings of `text` in their order, and what is broken. */
export function scanSettings(text: string): { settings: Setting[]; errors: SettingError[] } {
  const settings: Setting[] = [];
  const errors: SettingError[] = [];
  let line = 1;
  for (const tokens of lines(text)) {
    const [name, ...afterName] = tokens;
    if (name) {
      const rest = afterName[0]?.kind === 'equals' ? afterName.slice(1) : afterName;
      const [value, extra] = rest;
      const wrong = [
        name.kind === 'identifier' ? undefined : name,
        value && !isValue(value) ? value : undefined,
        extra,
      ].find((token) => token !== undefined);
      if (wrong) errors.push({ line, token: wrong.text });
      else if (!value) errors.push({ line });
      else {
        const { start } = name;
        const { end } = value;
        settings.push({ name: name.text, value: valueOf(value), line, start, end });
      }
    }
    line++;
  }
  return { settings, errors };
}

/** The tokens of each line. */
function* lines(text: string): Generator<Token[]> {
  let tokens: Token[] = [];
  let at = 0;
  for (;;) {
    BLANKS_AND_COMMENT.lastIndex = at;
    at += BLANKS_AND_COMMENT.exec(text)?.[0].length ?? 0;
    if (at >= text.length) return yield tokens;
    const token = tokenAt(text, at);
    at = token.end;
    if (token.kind !== 'end-of-line') {
      tokens.push(token);
      continue;
    }
    yield tokens;
    tokens = [];
  }
}

function tokenAt(text: string, start: number): Token {
  let best: Token = { kind: 'error', text: text.charAt(start), start, end: start + 1 };
  let isFirst = true;
  for (const [kind, pattern] of TOKENS) {
    pattern.lastIndex = start;
    const matched = pattern.exec(text)?.[0];
    if (matched === undefined || matched === '') continue;
    if (!isFirst && matched.length <= best.text.length) continue;
    best = { kind, text: matched, start, end: start + matched.length };
    isFirst = false;
  }
  return best;
}

function isValue({ kind }: Token): boolean {
  return kind === 'identifier' || kind === 'string' || kind === 'value';
}

const ESCAPES: Record<string, string> = { b: '\b', f: '\f', n: '\n', r: '\r', t: '\t' };

/** guc-file.l, DeescapeQuotedString(). */
function valueOf({ kind, text }: Token): string {
  if (kind !== 'string') return text;
  return text.slice(1, -1).replace(/''|\\([0-7]{1,3}|.)/gsu, (found, escape?: string) => {
    if (escape === undefined) return "'";
    if (/^[0-7]/.test(escape)) return String.fromCharCode(Number.parseInt(escape, 8) & 0xff);
    return ESCAPES[escape] ?? (escape || found);
  });
}
