/**
 * The parenthesised options of replication commands, `( NAME [value] [, …] )`, which 15 brought
 * (repl_gram.y, generic_option_list). A keyword may serve as a name; names are in lower case here.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { CommandLexer } from './command-lexer.ts';

export interface CommandOption {
  name: string;
  /** true stands for an option without a value. */
  value: string | number | true;
}

/** Reads a list that the next token opens. It has one option at least. Throws 42601. */
export function parseOptionList(lexer: CommandLexer): CommandOption[] {
  const options: CommandOption[] = [];
  lexer.expect('(');
  do {
    options.push({ name: parseName(lexer), value: parseValue(lexer) });
  } while (lexer.accept(','));
  lexer.expect(')');
  return options;
}

function parseName(lexer: CommandLexer): string {
  const token = lexer.peek();
  if (token.kind !== 'keyword') return lexer.expectIdentifier();
  lexer.next();
  return token.text.toLowerCase();
}

function parseValue(lexer: CommandLexer): string | number | true {
  const { kind } = lexer.peek();
  if (kind === 'identifier') return lexer.expectIdentifier();
  if (kind === 'string') return lexer.expectString();
  if (kind === 'integer') return lexer.expectInteger();
  return true;
}

/** An option's value as a boolean (define.c, defGetBoolean()). Throws 42601. */
export function booleanOption({ name, value }: CommandOption): boolean {
  const word = String(value).toLowerCase();
  if (value === 1 || word === 'true' || word === 'on') return true;
  if (value === 0 || word === 'false' || word === 'off') return false;
  throw new WalcadeError(SQLSTATE.SYNTAX_ERROR, `${name} requires a Boolean value`);
}
