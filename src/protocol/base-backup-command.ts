/**
 * BASE_BACKUP: the bare words of PostgreSQL up to 14 and the parenthesised options since 15.
 *
 * The parser says what was asked for, in the vocabulary of 15, and refuses options that do not
 * exist or occur twice; values and combinations are judged by the server that makes the backup.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { CommandLexer } from './command-lexer.ts';
import { type CommandOption, parseOptionList } from './command-options.ts';

export interface BaseBackup {
  kind: 'base-backup';
  /** In the order given; bare words under the names that 15 gave them. */
  options: CommandOption[];
  /** The command as it was sent. */
  text: string;
}

/** The words of 13 and 14, and what each takes. */
const BARE_WORDS = new Map<string, 'nothing' | 'string' | 'integer'>([
  ['LABEL', 'string'],
  ['PROGRESS', 'nothing'],
  ['FAST', 'nothing'],
  ['NOWAIT', 'nothing'],
  ['WAL', 'nothing'],
  ['MAX_RATE', 'integer'],
  ['TABLESPACE_MAP', 'nothing'],
  ['NOVERIFY_CHECKSUMS', 'nothing'],
  ['MANIFEST', 'string'],
  ['MANIFEST_CHECKSUMS', 'string'],
]);

export const BARE_BASE_BACKUP_KEYWORDS: readonly string[] = [...BARE_WORDS.keys()];

/** Since 15, where it says otherwise than by the same name. */
const RENAMED = new Map<string, CommandOption>([
  ['fast', { name: 'checkpoint', value: 'fast' }],
  ['nowait', { name: 'wait', value: 0 }],
  ['noverify_checksums', { name: 'verify_checksums', value: 0 }],
]);

const OPTION_NAMES = new Set([
  'label',
  'progress',
  'checkpoint',
  'wal',
  'wait',
  'compression',
  'compression_detail',
  'max_rate',
  'tablespace_map',
  'verify_checksums',
  'manifest',
  'manifest_checksums',
  'target',
  'target_detail',
]);

const INCREMENTAL_SINCE = 170_000;

/** The command whose first word has been taken from `lexer`. Throws 42601. */
export function parseBaseBackup(
  lexer: CommandLexer,
  { text, serverVersionNum }: { text: string; serverVersionNum: number },
): BaseBackup {
  const bareWords = serverVersionNum < 150_000;
  const options = bareWords ? parseBareWords(lexer) : parseOptions(lexer);
  lexer.expectEnd();
  const seen = new Set<string>();
  for (const { name } of options) {
    const exists =
      bareWords ||
      OPTION_NAMES.has(name) ||
      (name === 'incremental' && serverVersionNum >= INCREMENTAL_SINCE);
    if (!exists) {
      throw syntaxError(`unrecognized base backup option: "${name}"`);
    }
    if (seen.has(name)) throw syntaxError(`duplicate option "${name}"`);
    seen.add(name);
  }
  return { kind: 'base-backup', options: options.map(inNewWords), text };
}

function parseOptions(lexer: CommandLexer): CommandOption[] {
  return lexer.peek().text === '(' ? parseOptionList(lexer) : [];
}

function parseBareWords(lexer: CommandLexer): CommandOption[] {
  const options: CommandOption[] = [];
  for (;;) {
    const { kind, text } = lexer.peek();
    const takes = kind === 'keyword' ? BARE_WORDS.get(text) : undefined;
    if (takes === undefined) return options;
    lexer.next();
    const name = text.toLowerCase();
    if (takes === 'string') options.push({ name, value: lexer.expectString() });
    else if (takes === 'integer') options.push({ name, value: lexer.expectInteger() });
    else options.push({ name, value: true });
  }
}

function inNewWords(option: CommandOption): CommandOption {
  return RENAMED.get(option.name) ?? option;
}

/** Where the backup is to go: `client` unless the command says otherwise. Throws 42601. */
export function backupTarget({ options }: BaseBackup): string {
  const target = options.find(({ name }) => name === 'target');
  if (target === undefined) return 'client';
  if (target.value === true) throw syntaxError('target requires a parameter');
  return String(target.value);
}

function syntaxError(text: string): WalcadeError {
  return new WalcadeError(SQLSTATE.SYNTAX_ERROR, text);
}
