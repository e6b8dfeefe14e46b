/**
 * The replication commands (manual, "Streaming Replication Protocol"): parsed as repl_gram.y of the
 * server version that a node stands for parses them, and formatted for an upstream.
 *
 * What begins with no replication keyword is SQL, the empty query included. Parsing never looks at
 * the node's state: whether a slot or a timeline exists is for the WAL sender to say.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type Lsn, type TimelineId, formatLsn, timelineId } from '../wal/lsn.ts';
import {
  BARE_BASE_BACKUP_KEYWORDS,
  type BaseBackup,
  parseBaseBackup,
} from './base-backup-command.ts';
import { CommandLexer, IDENTIFIER_BYTES_MAX } from './command-lexer.ts';
import { type CommandOption, booleanOption, parseOptionList } from './command-options.ts';

export { type BaseBackup, backupTarget } from './base-backup-command.ts';
export type { CommandOption } from './command-options.ts';

export interface StartReplication {
  kind: 'start-replication';
  slot?: string;
  start: Lsn;
  /** Absent: the server's current timeline. */
  timeline?: TimelineId;
}

export interface CreateReplicationSlot {
  kind: 'create-replication-slot';
  name: string;
  temporary: boolean;
  reserveWal: boolean;
}

export type ReplicationCommand =
  | { kind: 'identify-system' }
  | { kind: 'show'; name: string }
  | { kind: 'timeline-history'; timeline: TimelineId }
  | CreateReplicationSlot
  | { kind: 'create-logical-slot'; name: string }
  | { kind: 'read-replication-slot'; name: string }
  | { kind: 'drop-replication-slot'; name: string; wait: boolean }
  | { kind: 'alter-replication-slot'; name: string }
  | StartReplication
  | { kind: 'start-logical-replication'; slot: string }
  | BaseBackup
  | { kind: 'upload-manifest' }
  | { kind: 'sql'; text: string };

/** The words that begin a command, and the version that brought each. */
const COMMANDS_SINCE = new Map([
  ['IDENTIFY_SYSTEM', 0],
  ['SHOW', 0],
  ['TIMELINE_HISTORY', 0],
  ['CREATE_REPLICATION_SLOT', 0],
  ['DROP_REPLICATION_SLOT', 0],
  ['START_REPLICATION', 0],
  ['BASE_BACKUP', 0],
  ['READ_REPLICATION_SLOT', 150_000],
  ['ALTER_REPLICATION_SLOT', 170_000],
  ['UPLOAD_MANIFEST', 170_000],
]);

const BARE_SLOT_OPTIONS = [
  'RESERVE_WAL',
  'EXPORT_SNAPSHOT',
  'NOEXPORT_SNAPSHOT',
  'USE_SNAPSHOT',
  'TWO_PHASE',
];

const OTHER_KEYWORDS = ['SLOT', 'PHYSICAL', 'LOGICAL', 'TIMELINE', 'TEMPORARY', 'WAIT'];

const PARENTHESISED_SINCE = 150_000;

const commandsBefore15 = keywords(140_000);
const commandsBefore17 = keywords(150_000);
const commandsSince17 = keywords(170_000);

function keywords(serverVersionNum: number): {
  commands: ReadonlySet<string>;
  all: ReadonlySet<string>;
} {
  const commands = new Set<string>();
  for (const [word, since] of COMMANDS_SINCE) if (since <= serverVersionNum) commands.add(word);
  const bareWords = serverVersionNum < PARENTHESISED_SINCE ? BARE_BASE_BACKUP_KEYWORDS : [];
  return {
    commands,
    all: new Set([...commands, ...BARE_SLOT_OPTIONS, ...OTHER_KEYWORDS, ...bareWords]),
  };
}

/**
 * Parses the text of a simple query as PostgreSQL `serverVersionNum` (150018 is 15.18) does.
 * Throws 42601 for what begins with a replication keyword and is no command, 42602 for a slot name
 * that cannot exist.
 */
export function parseReplicationCommand(
  text: string,
  serverVersionNum: number,
): ReplicationCommand {
  let known = commandsSince17;
  if (serverVersionNum < 150_000) known = commandsBefore15;
  else if (serverVersionNum < 170_000) known = commandsBefore17;
  const lexer = new CommandLexer(text, known.all);
  const first = lexer.peek();
  if (first.kind !== 'keyword' || !known.commands.has(first.text)) return { kind: 'sql', text };
  lexer.next();
  if (first.text === 'BASE_BACKUP') return parseBaseBackup(lexer, { text, serverVersionNum });
  if (first.text === 'CREATE_REPLICATION_SLOT') return parseCreateSlot(lexer, serverVersionNum);
  const command = parseSimpleCommand(first.text, lexer);
  // The options of a logical stream are not read: the command is refused as a whole.
  if (command.kind !== 'start-logical-replication') lexer.expectEnd();
  return command;
}

function parseSimpleCommand(word: string, lexer: CommandLexer): ReplicationCommand {
  switch (word) {
    case 'IDENTIFY_SYSTEM':
      return { kind: 'identify-system' };
    case 'SHOW':
      return { kind: 'show', name: parseDottedName(lexer) };
    case 'TIMELINE_HISTORY':
      return { kind: 'timeline-history', timeline: parseTimeline(lexer) };
    case 'READ_REPLICATION_SLOT':
      return { kind: 'read-replication-slot', name: parseDottedName(lexer) };
    case 'DROP_REPLICATION_SLOT':
      return {
        kind: 'drop-replication-slot',
        name: lexer.expectIdentifier(),
        wait: lexer.accept('WAIT'),
      };
    case 'ALTER_REPLICATION_SLOT': {
      const name = lexer.expectIdentifier();
      parseOptionList(lexer);
      return { kind: 'alter-replication-slot', name };
    }
    case 'UPLOAD_MANIFEST':
      return { kind: 'upload-manifest' };
    default:
      return parseStartReplication(lexer);
  }
}

function parseDottedName(lexer: CommandLexer): string {
  let name = lexer.expectIdentifier();
  while (lexer.accept('.')) name += `.${lexer.expectIdentifier()}`;
  return name;
}

function parseTimeline(lexer: CommandLexer): TimelineId {
  const timeline = lexer.expectInteger();
  if (timeline === 0) throw new WalcadeError(SQLSTATE.SYNTAX_ERROR, 'invalid timeline 0');
  return timelineId(timeline);
}

function parseCreateSlot(lexer: CommandLexer, serverVersionNum: number): ReplicationCommand {
  const name = lexer.expectIdentifier();
  const temporary = lexer.accept('TEMPORARY');
  if (lexer.accept('LOGICAL')) {
    // As with a logical stream: refused as a whole, so its options are not read.
    lexer.expectIdentifier();
    return { kind: 'create-logical-slot', name };
  }
  lexer.expect('PHYSICAL');
  const reserveWal =
    serverVersionNum >= PARENTHESISED_SINCE
      ? readReserveWal(parseSlotOptions(lexer))
      : lexer.accept('RESERVE_WAL');
  lexer.expectEnd();
  checkSlotName(name);
  return { kind: 'create-replication-slot', name, temporary, reserveWal };
}

/** Since 15: options in parentheses, or any number of bare words. */
function parseSlotOptions(lexer: CommandLexer): CommandOption[] {
  if (lexer.peek().text === '(') return parseOptionList(lexer);
  const options: CommandOption[] = [];
  for (;;) {
    const word = BARE_SLOT_OPTIONS.find((option) => lexer.accept(option));
    if (word === undefined) return options;
    const name = word.endsWith('_SNAPSHOT') ? 'snapshot' : word.toLowerCase();
    options.push({ name, value: true });
  }
}

/** The one option of a physical slot (walsender.c, parseCreateReplSlotOptions()). */
function readReserveWal(options: readonly CommandOption[]): boolean {
  let reserveWal: boolean | undefined;
  for (const option of options) {
    if (!CREATE_SLOT_OPTIONS.has(option.name)) {
      throw new WalcadeError(SQLSTATE.INTERNAL_ERROR, `unrecognized option: ${option.name}`);
    }
    if (option.name !== 'reserve_wal' || reserveWal !== undefined) {
      throw new WalcadeError(SQLSTATE.SYNTAX_ERROR, 'conflicting or redundant options', {
        detail: `The option is "${option.name}".`,
      });
    }
    reserveWal = booleanOption(option);
  }
  return reserveWal ?? false;
}

/** All but the first are for logical slots. */
const CREATE_SLOT_OPTIONS = new Set(['reserve_wal', 'snapshot', 'two_phase', 'failover']);

function parseStartReplication(lexer: CommandLexer): ReplicationCommand {
  const slot = lexer.accept('SLOT') ? lexer.expectIdentifier() : undefined;
  if (slot !== undefined && lexer.accept('LOGICAL')) {
    lexer.expectLsn();
    return { kind: 'start-logical-replication', slot };
  }
  lexer.accept('PHYSICAL');
  const start = lexer.expectLsn();
  const timeline = lexer.accept('TIMELINE') ? parseTimeline(lexer) : undefined;
  return {
    kind: 'start-replication',
    start,
    ...(slot === undefined ? {} : { slot }),
    ...(timeline === undefined ? {} : { timeline }),
  };
}

/**
 * Throws 42602 unless `name` can be a replication slot's: 1 to 63 lower case letters, digits and
 * underscores (slot.c, ReplicationSlotValidateName()), since it becomes a directory's name.
 */
export function checkSlotName(name: string): void {
  const complaint = slotNameComplaint(name);
  if (complaint === undefined) return;
  const text = `replication slot name "${name}" ${complaint}`;
  throw new WalcadeError(SQLSTATE.INVALID_NAME, text, {
    hint:
      'Replication slot names may only contain lower case letters, numbers, ' +
      'and the underscore character.',
  });
}

function slotNameComplaint(name: string): string | undefined {
  if (name === '') return 'is too short';
  if (Buffer.byteLength(name) > IDENTIFIER_BYTES_MAX) return 'is too long';
  return /^[a-z0-9_]+$/.test(name) ? undefined : 'contains invalid character';
}

export function quoteIdentifier(name: string): string {
  return `"${name.replaceAll('"', '""')}"`;
}

export function formatStartReplication({
  slot,
  start,
  timeline,
}: Omit<StartReplication, 'kind'>): string {
  const slotPart = slot === undefined ? '' : ` SLOT ${quoteIdentifier(slot)}`;
  const timelinePart = timeline === undefined ? '' : ` TIMELINE ${timeline}`;
  return `START_REPLICATION${slotPart} PHYSICAL ${formatLsn(start)}${timelinePart}`;
}

/** A command that creates a physical slot on a server of version `serverVersionNum`. */
export function formatCreateSlot(
  name: string,
  {
    temporary,
    reserveWal,
    serverVersionNum,
  }: { temporary: boolean; reserveWal: boolean; serverVersionNum: number },
): string {
  const temporaryPart = temporary ? ' TEMPORARY' : '';
  const parenthesised = serverVersionNum >= PARENTHESISED_SINCE;
  const reserve = parenthesised ? ' (RESERVE_WAL)' : ' RESERVE_WAL';
  const slot = quoteIdentifier(name);
  return `CREATE_REPLICATION_SLOT ${slot}${temporaryPart} PHYSICAL${reserveWal ? reserve : ''}`;
}

/** For servers of version 15 and later. */
export function formatReadSlot(name: string): string {
  return `READ_REPLICATION_SLOT ${quoteIdentifier(name)}`;
}

export function formatDropSlot(name: string, { wait = false }: { wait?: boolean } = {}): string {
  return `DROP_REPLICATION_SLOT ${quoteIdentifier(name)}${wait ? ' WAIT' : ''}`;
}
