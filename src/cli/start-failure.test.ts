/** Why a node did not start: read from logs as the node writes them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type LogEntry, formatLogEntry } from '../base/log.ts';
import { systemClock } from '../base/clock.ts';
import { notReadyYet, startFailure } from './start-failure.ts';

const line = (entry: Omit<LogEntry, 'context'>): string =>
  formatLogEntry({ context: '', ...entry }, { clock: systemClock, processId: 4711 });

test('the last FATAL entry becomes the error, with its detail and hint', () => {
  const said =
    line({ level: 'fatal', message: 'an earlier one', hint: 'Not this.' }) +
    line({ level: 'log', message: 'something' }) +
    line({
      level: 'fatal',
      message: 'configuration file "walcade.conf" contains errors',
      detail: 'first line\nsecond line',
    });
  const { message, detail, hint } = startFailure(said, { path: 'n/walcade.log', pid: 4711 });
  assert.equal(message, 'could not start node: configuration file "walcade.conf" contains errors');
  assert.equal(detail, 'first line\nsecond line');
  assert.equal(hint, 'Examine the log "n/walcade.log".');
});

test('a hint of the node wins over the one to examine the log', () => {
  const said = line({ level: 'fatal', message: 'could not bind', hint: 'Is it taken?' });
  assert.equal(startFailure(said, { path: 'log', pid: 4711 }).hint, 'Is it taken?');
});

test('what the attached server says of its own end is not why the node ended', () => {
  const said =
    line({ level: 'fatal', message: 'could not bind' }) +
    line({ level: 'fatal', message: 'terminating walreceiver process' }).replace('4711', '4712');
  const { message } = startFailure(said, { path: 'log', pid: 4711 });
  assert.equal(message, 'could not start node: could not bind');
});

test('without a FATAL entry the end of the log is shown', () => {
  const failure = startFailure('Segmentation fault\n', { path: 'log', pid: 4711 });
  assert.ok(failure instanceof WalcadeError);
  assert.equal(failure.sqlstate, SQLSTATE.CANNOT_CONNECT_NOW);
  assert.equal(failure.detail, 'Its log ends with:\nSegmentation fault');
  assert.equal(startFailure('', { path: 'log', pid: 4711 }).detail, 'It ended without a word.');
});

test('a node that is not ready in time tells what its attached server said last', () => {
  const server = {
    version: '18.4',
    dataDirectory: '/n/data',
    state: 'down',
    role: 'standby',
    pid: null,
    reason: 'FATAL:  configuration file "/n/data/postgresql.conf" contains errors',
    restarts: 2,
    replay: null,
    lagBytes: null,
  };
  const options = { timeoutSeconds: 3, path: 'n/walcade.log' };
  const { message, detail, hint } = notReadyYet(server, options);
  assert.equal(message, 'node is not ready after 3 s');
  assert.equal(
    detail,
    'WAL is served; the attached PostgreSQL server is down. Its status says: ' +
      'FATAL:  configuration file "/n/data/postgresql.conf" contains errors\nIt goes on starting.',
  );
  assert.equal(hint, 'Examine the log "n/walcade.log".');
  assert.equal(
    notReadyYet({ ...server, state: 'replaying', reason: null }, options).detail,
    'WAL is served; the attached PostgreSQL server is replaying.\nIt goes on starting.',
  );
  assert.equal(notReadyYet(null, options).detail, 'It goes on starting.');
});
