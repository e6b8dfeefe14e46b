/** The log: levels, contexts, and the text that is written. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { systemClock } from './clock.ts';
import {
  SQLSTATE,
  WalcadeError,
  asWalcadeError,
  describeSystemError,
  systemErrorCode,
} from './errors.ts';
import { type LogEntry, type LogLevel, createLog, formatLogEntry } from './log.ts';

const clock = { ...systemClock, nowMs: () => Date.UTC(2026, 10, 23, 10, 0, 0, 123) };
const format = (entry: Omit<LogEntry, 'context'> & { context?: string }): string =>
  formatLogEntry({ context: '', ...entry }, { clock, processId: 4711 });

test('an entry reads as a line of PostgreSQL with log_line_prefix "%m [%p] "', () => {
  const prefix = '2026-11-23 10:00:00.123 UTC [4711] ';
  assert.equal(format({ level: 'log', message: 'ready' }), `${prefix}LOG:  ready\n`);
  assert.equal(
    format({
      level: 'error',
      context: 'standby1',
      message: 'no',
      detail: 'One.\nTwo.',
      hint: 'Do.',
    }),
    `${prefix}ERROR:  [standby1] no\n${prefix}DETAIL:  One.\n\tTwo.\n${prefix}HINT:  Do.\n`,
  );
});

test('what is below the least level is not written, and the level may change', () => {
  const entries: LogEntry[] = [];
  let minimum: LogLevel = 'log';
  const log = createLog((entry) => entries.push(entry), { minimum: () => minimum });
  log.debug('hidden');
  log.log('shown');
  minimum = 'warning';
  log.log('hidden');
  log.warning('shown');
  log.error(new WalcadeError(SQLSTATE.DISK_FULL, 'full', { hint: 'Make room.' }));
  assert.deepEqual(
    entries.map(({ level, message, hint }) => [level, message, hint]),
    [
      ['log', 'shown', undefined],
      ['warning', 'shown', undefined],
      ['error', 'full', 'Make room.'],
    ],
  );
});

test('a child puts its context behind that of its parent', () => {
  const contexts: string[] = [];
  const log = createLog(({ context }) => contexts.push(context), { minimum: () => 'log' });
  log.child('relay').child('127.0.0.1(5123)').fatal(new Error('x'));
  assert.deepEqual(contexts, ['relay 127.0.0.1(5123)']);
});

test('anything thrown becomes an error with an SQLSTATE; system errors have their C texts', () => {
  const { sqlstate, message } = asWalcadeError('plain');
  assert.deepEqual([sqlstate, message], [SQLSTATE.INTERNAL_ERROR, 'plain']);
  const own = new WalcadeError(SQLSTATE.DISK_FULL, 'full');
  assert.equal(asWalcadeError(own), own);
  const system = Object.assign(new Error('write ENOSPC'), { code: 'ENOSPC' });
  assert.equal(systemErrorCode(system), 'ENOSPC');
  assert.equal(describeSystemError(system), 'No space left on device');
  assert.equal(systemErrorCode('ENOSPC'), undefined);
  assert.equal(describeSystemError(new Error('other')), 'other');
});
