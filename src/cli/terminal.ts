/** What commands share towards the person at the terminal: errors, questions, numbers. */
import { createInterface } from 'node:readline/promises';
import { pc, pcError } from './colors.ts';
import { systemClock } from '../base/clock.ts';
import { AssertionFailed } from '../base/assert.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { type LogLevel, createLog, formatLogEntry } from '../base/log.ts';

/** Shows an error as psql does: message, detail, hint; no stack trace but for a bug of ours. */
export function printError(error: unknown): void {
  printReport(pcError.red('error:'), asWalcadeError(error));
  if (error instanceof AssertionFailed) process.stderr.write(`${error.stack}\n`);
}

/** Shows what somebody should know of something that was done. */
export function printNotice(notice: Report): void {
  printReport(pcError.yellow('notice:'), notice);
}

interface Report {
  message: string;
  detail?: string | undefined;
  hint?: string | undefined;
}

function printReport(what: string, { message, detail, hint }: Report): void {
  let text = `walcade: ${what} ${message}\n`;
  if (detail !== undefined) text += `${pcError.bold('DETAIL:')}  ${detail}\n`;
  if (hint !== undefined) text += `${pcError.bold('HINT:')}  ${hint}\n`;
  process.stderr.write(text);
}

/** A log on stderr, at the level that `minimum` gives; `makeRoom` is called before each line. */
export function stderrLog(minimum: () => LogLevel, makeRoom: () => void = () => {}) {
  return createLog(
    (entry) => {
      makeRoom();
      process.stderr.write(formatLogEntry(entry, { clock: systemClock, processId: process.pid }));
    },
    { minimum },
  );
}

/** Aborts when the person at the terminal, or the system, asks the command to end. */
export function interruptible(): AbortSignal {
  const stop = new AbortController();
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.once(name, () => {
      stop.abort(new WalcadeError(SQLSTATE.QUERY_CANCELED, `canceled by ${name}`));
    });
  }
  return stop.signal;
}

/** Asks a question that is answered by yes or no; no without a terminal, and for Ctrl-C or -D. */
export async function confirm(question: string): Promise<boolean> {
  if (!process.stdin.isTTY) return false;
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const unanswered = new AbortController();
  for (const event of ['SIGINT', 'close']) terminal.once(event, () => unanswered.abort());
  try {
    const answer = await terminal.question(`${question} [y/N] `, { signal: unanswered.signal });
    return /^y(es)?$/i.test(answer.trim());
  } catch (error) {
    if (!unanswered.signal.aborted) throw error;
    process.stderr.write('\n');
    return false;
  } finally {
    terminal.close();
  }
}

/** Whether standard output is a terminal that shows box-drawing characters: one for UTF-8. */
export function canDrawBoxes(): boolean {
  const { LC_ALL: all, LC_CTYPE: characters, LANG: language, TERM: terminal } = process.env;
  // The first that is set and not empty counts (setlocale(3)).
  const locale = [all, characters, language].find((name) => name !== undefined && name !== '');
  return process.stdout.isTTY && terminal !== 'dumb' && /utf-?8/i.test(locale ?? '');
}

/** Facts one a line, under each other. */
export function formatFacts(facts: readonly (readonly [string, string])[]): string {
  const width = Math.max(...facts.map(([name]) => name.length)) + 2;
  return facts.map(([name, value]) => `${name.padEnd(width)}${value}\n`).join('');
}

/** Rows under headings, in columns as wide as needed. */
export function formatTable(headings: readonly string[], rows: readonly string[][]): string {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => (row[column] ?? '').length)),
  );
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return [pc.bold(line(headings)), ...rows.map(line)].join('\n');
}
