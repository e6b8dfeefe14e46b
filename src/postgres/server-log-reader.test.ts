/** What is read in the log of an attached server, with lines as real servers wrote them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ServerLogReader } from './server-log-reader.ts';

const POSTMASTER = 100;

/** `text` as process `pid` logs it with the attached server's log_line_prefix. */
const line = (pid: number, text: string): string =>
  `2026-11-23 10:00:00.123 UTC [${pid}] ${text}\n`;

function readerOf(...lines: string[]): ServerLogReader {
  const reader = new ServerLogReader();
  for (const each of lines) reader.read(each, POSTMASTER);
  return reader;
}

test('redo begins with the line that says so, also where error codes are logged', () => {
  assert.equal(readerOf(line(101, 'LOG:  entering standby mode')).replays, false);
  assert.equal(readerOf(line(101, 'LOG:  redo starts at 0/3000028')).replays, true);
  assert.equal(readerOf(line(101, 'LOG:  00000: redo starts at 0/3000028')).replays, true);
});

test('a client cannot write a line that counts', () => {
  const reader = readerOf(
    line(200, '[eve@postgres] LOG:  redo starts at 0/0'),
    line(200, '[eve@postgres] LOG:  first line'),
    `\t${line(100, 'LOG:  redo starts at 0/0')}`,
    line(200, '[eve@postgres] FATAL:  no such thing'),
  );
  assert.equal(reader.replays, false);
  assert.equal(reader.lastWords(200), undefined);
});

test('a line that a function writes in a parallel worker is not taken for the postmaster', () => {
  // It had the server not ready for ever, since such a line has no session's mark.
  const reader = readerOf(
    line(POSTMASTER, 'LOG:  database system is ready to accept read-only connections'),
    line(200, 'LOG:  all server processes terminated; reinitializing'),
    line(200, 'LOG:  startup process (PID 101) exited with exit code 1'),
  );
  assert.equal(reader.isReinitializing, false);
  assert.equal(reader.lastWords(POSTMASTER), undefined);
});

test('a server that starts its processes anew is not ready until it says so again', () => {
  const reader = readerOf(
    line(101, 'LOG:  redo starts at 0/3000028'),
    line(POSTMASTER, 'LOG:  database system is ready to accept read-only connections'),
    line(POSTMASTER, 'LOG:  server process (PID 200) was terminated by signal 9: Killed'),
    line(POSTMASTER, 'LOG:  terminating any other active server processes'),
    line(POSTMASTER, 'LOG:  all server processes terminated; reinitializing'),
  );
  assert.deepEqual([reader.isReinitializing, reader.replays], [true, false]);
  reader.read(line(300, 'LOG:  redo starts at 0/3000028'), POSTMASTER);
  assert.deepEqual([reader.isReinitializing, reader.replays], [true, true]);
  const ready = 'LOG:  database system is ready to accept read only connections';
  reader.read(line(POSTMASTER, ready), POSTMASTER);
  assert.equal(reader.isReinitializing, false);
  assert.equal(reader.lastWords(POSTMASTER), undefined);
});

test('replay that waits for higher limits is told by its warning, of no session', () => {
  const words = 'hot standby is not possible because of insufficient parameter settings';
  assert.equal(readerOf(line(101, `WARNING:  ${words}`)).lacksLimits, true);
  assert.equal(readerOf(line(101, `WARNING:  22023: ${words}`)).lacksLimits, true);
  assert.equal(readerOf(line(200, `[eve@postgres] WARNING:  ${words}`)).lacksLimits, false);
  assert.equal(readerOf(line(101, 'WARNING:  something else')).lacksLimits, false);
  assert.equal(readerOf(line(POSTMASTER, `WARNING:  ${words}`)).lastWords(POSTMASTER), undefined);
});

test('the last words are those of the postmaster', () => {
  const reader = readerOf(
    line(POSTMASTER, 'FATAL:  could not create lock file "postmaster.pid": Permission denied'),
  );
  const words = 'FATAL:  could not create lock file "postmaster.pid": Permission denied';
  assert.equal(reader.lastWords(POSTMASTER), words);
});

test('else they are those of the process whose end ended the server, not of any other', () => {
  const reader = readerOf(
    line(101, "FATAL:  requested timeline 2 is not a child of this server's history"),
    line(102, 'FATAL:  could not connect to the primary server: no such file'),
    line(POSTMASTER, 'LOG:  startup process (PID 101) exited with exit code 1'),
    line(POSTMASTER, 'LOG:  aborting startup due to startup process failure'),
  );
  const words = "FATAL:  requested timeline 2 is not a child of this server's history";
  assert.equal(reader.lastWords(POSTMASTER), words);
});

test('a process that was killed says nothing; then its end is told', () => {
  const end = 'startup process (PID 101) was terminated by signal 9: Killed';
  assert.equal(readerOf(line(POSTMASTER, `LOG:  ${end}`)).lastWords(POSTMASTER), end);
});

test('what is said before there is a log counts if nothing else is said', () => {
  const words = 'walcade-postgres: 1: exec: /nowhere/postgres: not found';
  assert.equal(readerOf(`${words}\n`).lastWords(POSTMASTER), words);
  const running = readerOf(line(POSTMASTER, 'LOG:  starting PostgreSQL 18.4'), 'cp: noise\n');
  assert.equal(running.lastWords(POSTMASTER), undefined);
});

test('WAL receivers that come and go take bounded memory, and the postmaster stays known', () => {
  const reader = readerOf();
  for (let pid = 1000; pid < 3000; pid++) {
    reader.read(line(pid, 'FATAL:  terminating walreceiver'), POSTMASTER);
  }
  reader.read(line(POSTMASTER, 'PANIC:  could not write to file'), POSTMASTER);
  assert.equal(reader.lastWords(POSTMASTER), 'PANIC:  could not write to file');
  assert.equal(reader.lastWords(1000), undefined);
});

test('a promotion begins when the startup process says so, and nobody else', () => {
  const request = 'LOG:  received promote request';
  const reader = readerOf(
    line(101, 'LOG:  entering standby mode'),
    line(200, 'LOG:  entering standby mode'),
    line(200, request),
    line(201, `[eve@postgres] ${request}`),
  );
  assert.equal(reader.isPromoting, false);
  reader.read(line(101, request), POSTMASTER);
  assert.equal(reader.isPromoting, true);
});

test('a promotion that a crash of the server broke off is none any more', () => {
  const reader = readerOf(
    line(101, 'LOG:  entering standby mode'),
    line(101, 'LOG:  received promote request'),
    line(POSTMASTER, 'LOG:  all server processes terminated; reinitializing'),
  );
  assert.equal(reader.isPromoting, false);
});
