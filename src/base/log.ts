/**
 * Log entries in PostgreSQL's text format: one line for the message, continuation lines for
 * detail and hint. A Log lives as long as the part that writes to it; `child` adds a prefix
 * such as a session's application_name and address.
 *
 * ERROR needs a human; WARNING went on regardless; LOG is a state change; DEBUG is off by default.
 */
import type { Clock } from './clock.ts';
import { type WalcadeError, asWalcadeError } from './errors.ts';

export const LOG_LEVELS = ['debug', 'log', 'warning', 'error', 'fatal', 'panic'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LogEntry {
  level: LogLevel;
  /** What the entry is about: `wal receiver`, `standby1 127.0.0.1:5123`, … */
  context: string;
  message: string;
  detail?: string | undefined;
  hint?: string | undefined;
  sqlstate?: string | undefined;
}

export interface Log {
  debug(message: string): void;
  log(message: string, detail?: string): void;
  warning(message: string | WalcadeError): void;
  error(error: unknown): void;
  fatal(error: unknown): void;
  panic(error: unknown): void;
  child(context: string): Log;
}

/** A log that hands every entry at or above `minimum` to `write`. */
export function createLog(
  write: (entry: LogEntry) => void,
  { minimum, context = '' }: { minimum: () => LogLevel; context?: string },
): Log {
  const emit = (level: LogLevel, what: unknown, detail?: string): void => {
    if (LOG_LEVELS.indexOf(level) < LOG_LEVELS.indexOf(minimum())) return;
    if (typeof what === 'string') return write({ level, context, message: what, detail });
    const { message, sqlstate, hint, detail: facts } = asWalcadeError(what);
    write({ level, context, message, detail: facts, hint, sqlstate });
  };
  return {
    debug: (message) => emit('debug', message),
    log: (message, detail) => emit('log', message, detail),
    warning: (message) => emit('warning', message),
    error: (error) => emit('error', error),
    fatal: (error) => emit('fatal', error),
    panic: (error) => emit('panic', error),
    child: (inner) =>
      createLog(write, { minimum, context: context === '' ? inner : `${context} ${inner}` }),
  };
}

/**
 * One entry as PostgreSQL's text log shows it, with log_line_prefix `%m [%p] `:
 * `2026-11-23 10:00:00.123 UTC [4711] LOG:  message`, then DETAIL and HINT lines.
 */
export function formatLogEntry(
  entry: LogEntry,
  { clock, processId }: { clock: Clock; processId: number },
): string {
  const time = new Date(clock.nowMs()).toISOString().replace('T', ' ').replace('Z', ' UTC');
  const prefix = `${time} [${processId}] `;
  const about = entry.context === '' ? '' : `[${entry.context}] `;
  const fields: [string, string | undefined][] = [
    [entry.level.toUpperCase(), about + entry.message],
    ['DETAIL', entry.detail],
    ['HINT', entry.hint],
  ];
  let text = '';
  for (const [label, value] of fields) {
    if (value === undefined) continue;
    text += `${prefix}${label}:  ${value.replaceAll('\n', '\n\t')}\n`;
  }
  return text;
}
