/**
 * The words of a replication command, as PostgreSQL's repl_scanner.l cuts them, and the small steps
 * that a parser takes over them. A CommandLexer lives for one command.
 *
 * Keywords are recognised in upper case only; which words are keywords is for the parser to say,
 * since that changed with 15. Other identifiers are folded to lower case and cut at 63 bytes.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type Lsn, parseLsn } from '../wal/lsn.ts';

/** The longest identifier: PostgreSQL's NAMEDATALEN - 1. */
export const IDENTIFIER_BYTES_MAX = 63;

export type Token = { text: string; offset: number } & (
  | { kind: 'keyword' }
  | { kind: 'identifier'; name: string }
  | { kind: 'string'; value: string }
  | { kind: 'integer'; value: number }
  | { kind: 'lsn'; value: Lsn }
  | { kind: 'symbol' }
  | { kind: 'end' }
);

const SPACE = /[ \t\n\r\f\v]*/y;
const LSN = /[0-9A-Fa-f]+\/[0-9A-Fa-f]+/y;
const INTEGER = /[0-9]+/y;
const IDENTIFIER = /[A-Za-z_\u0080-\u{10ffff}][A-Za-z_0-9$\u0080-\u{10ffff}]*/uy;
const QUOTED_IDENTIFIER = /"((?:[^"]|"")*)"/y;
const STRING = /'((?:[^']|'')*)'/y;

export class CommandLexer {
  readonly #text: string;
  readonly #keywords: ReadonlySet<string>;
  #offset = 0;
  #peeked: Token | undefined;

  constructor(text: string, keywords: ReadonlySet<string>) {
    this.#text = text;
    this.#keywords = keywords;
  }

  /** The token that `next` will return. Throws 42601. */
  peek(): Token {
    this.#peeked ??= this.#read();
    return this.#peeked;
  }

  /** The next token; `end` again and again after the last. Throws 42601. */
  next(): Token {
    const token = this.peek();
    this.#peeked = undefined;
    return token;
  }

  /** Whether the next token is this keyword or symbol, which is then taken. */
  accept(word: string): boolean {
    const { kind, text } = this.peek();
    if ((kind !== 'keyword' && kind !== 'symbol') || text !== word) return false;
    this.next();
    return true;
  }

  expect(word: string): void {
    if (!this.accept(word)) throw this.syntaxError();
  }

  expectIdentifier(): string {
    const token = this.peek();
    if (token.kind !== 'identifier') throw this.syntaxError();
    this.next();
    return token.name;
  }

  expectString(): string {
    const token = this.peek();
    if (token.kind !== 'string') throw this.syntaxError();
    this.next();
    return token.value;
  }

  expectInteger(): number {
    const token = this.peek();
    if (token.kind !== 'integer') throw this.syntaxError();
    this.next();
    return token.value;
  }

  expectLsn(): Lsn {
    const token = this.peek();
    if (token.kind !== 'lsn') throw this.syntaxError();
    this.next();
    return token.value;
  }

  /** Throws 42601 unless the command ends here, after a semicolon or without one. */
  expectEnd(): void {
    this.accept(';');
    if (this.peek().kind !== 'end') throw this.syntaxError();
  }

  /** What to throw when the next token cannot stand where it does. */
  syntaxError(): WalcadeError {
    const { kind, text, offset } = this.peek();
    const place =
      kind === 'end'
        ? 'at the end of the command'
        : `at or near "${text}", character ${offset + 1} of the command`;
    return new WalcadeError(SQLSTATE.SYNTAX_ERROR, 'syntax error', {
      detail: `The error is ${place}.`,
    });
  }

  #read(): Token {
    this.#offset += this.#match(SPACE)?.[0].length ?? 0;
    const token = this.#scan(this.#offset);
    this.#offset += token.text.length;
    return token;
  }

  #scan(offset: number): Token {
    if (offset >= this.#text.length) return { kind: 'end', text: '', offset };
    const position = this.#match(LSN)?.[0];
    if (position !== undefined) {
      return { kind: 'lsn', value: parseStart(position), text: position, offset };
    }
    const digits = this.#match(INTEGER)?.[0];
    if (digits !== undefined) {
      return { kind: 'integer', value: parseInteger(digits), text: digits, offset };
    }
    const word = this.#match(IDENTIFIER)?.[0];
    if (word !== undefined) {
      if (this.#keywords.has(word)) return { kind: 'keyword', text: word, offset };
      const name = truncate(word.replace(/[A-Z]/g, (letter) => letter.toLowerCase()));
      return { kind: 'identifier', name, text: word, offset };
    }
    return this.#scanQuoted(offset);
  }

  #scanQuoted(offset: number): Token {
    const identifier = this.#match(QUOTED_IDENTIFIER);
    if (identifier) {
      const name = truncate((identifier[1] ?? '').replaceAll('""', '"'));
      return { kind: 'identifier', name, text: identifier[0], offset };
    }
    const string = this.#match(STRING);
    if (string) {
      const value = (string[1] ?? '').replaceAll("''", "'");
      return { kind: 'string', value, text: string[0], offset };
    }
    const symbol = String.fromCodePoint(this.#text.codePointAt(offset) ?? 0);
    if (symbol === '"' || symbol === "'") {
      throw new WalcadeError(SQLSTATE.SYNTAX_ERROR, 'unterminated quoted string', {
        detail: `It begins at character ${offset + 1} of the command.`,
      });
    }
    return { kind: 'symbol', text: symbol, offset };
  }

  #match(pattern: RegExp): RegExpExecArray | null {
    pattern.lastIndex = this.#offset;
    return pattern.exec(this.#text);
  }
}

function parseStart(text: string): Lsn {
  // More than eight digits are refused even when they are zeros.
  if (!/^.{1,8}\/.{1,8}$/.test(text)) {
    throw new WalcadeError(SQLSTATE.SYNTAX_ERROR, `invalid streaming start location "${text}"`);
  }
  return parseLsn(text);
}

function parseInteger(digits: string): number {
  const value = Number(digits);
  if (value <= 0xffff_ffff) return value;
  throw new WalcadeError(SQLSTATE.SYNTAX_ERROR, `integer out of range: ${digits}`);
}

/** The longest front part of `name` that fits 63 bytes without splitting a character. */
function truncate(name: string): string {
  if (Buffer.byteLength(name) <= IDENTIFIER_BYTES_MAX) return name;
  let end = 0;
  let bytes = 0;
  for (const character of name) {
    bytes += Buffer.byteLength(character);
    if (bytes > IDENTIFIER_BYTES_MAX) break;
    end += character.length;
  }
  return name.slice(0, end);
}
