/** postmaster.pid, whole, half written, stale and of somebody else. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, realpath, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { type TestContext, test } from 'node:test';
import { waitFor } from '../../test/harness/wait.ts';
import { isEndUnnoted, parsePostmasterPid, runningServer } from './postmaster-pid.ts';

const WHOLE = `4711
/srv/slave/data
1795450000
4002
/srv/slave/private/sql

  8389122   1234
ready   
`;

test('all lines of a server that is ready are read', () => {
  assert.deepEqual(parsePostmasterPid(WHOLE), {
    pid: 4711,
    dataDirectory: '/srv/slave/data',
    port: 4002,
    socketDirectory: '/srv/slave/private/sql',
    status: 'ready',
  });
});

test('lines that the server has not written yet are empty', () => {
  const lines = WHOLE.split('\n');
  const first = (count: number): string => `${lines.slice(0, count).join('\n')}\n`;
  assert.equal(parsePostmasterPid(first(7))?.status, '');
  assert.equal(parsePostmasterPid(first(4))?.socketDirectory, '');
  assert.equal(parsePostmasterPid('4711')?.pid, 4711);
});

test('a standalone backend has the negative of its process ID in the file', () => {
  assert.equal(parsePostmasterPid('-4711\n/srv/slave/data\n')?.pid, 4711);
});

test('what no server wrote is not taken for one', () => {
  for (const text of ['', '\n', '0\n', 'abc\n', '12 13\n', '1e3\n', '99999999999\n', '\0\0\0\0']) {
    assert.equal(parsePostmasterPid(text), undefined, JSON.stringify(text));
  }
});

test('a directory without the file has no server', async (t) => {
  assert.equal(await runningServer(await makeDirectory(t)), undefined);
});

test('a process that has ended is no server', async (t) => {
  const directory = await makeDirectory(t);
  const child = spawn(process.execPath, ['-e', ''], { cwd: directory, stdio: 'ignore' });
  await once(child, 'exit');
  await writeFile(join(directory, 'postmaster.pid'), `${child.pid}\n`);
  assert.equal(await runningServer(directory), undefined);
});

test('a process in the directory is the server; one elsewhere got its number later', async (t) => {
  const directory = await makeDirectory(t);
  const waiting = ['-e', 'process.stdin.resume()'];
  const child = spawn(process.execPath, waiting, { cwd: directory, stdio: 'pipe' });
  t.after(async () => {
    child.stdin.end();
    await once(child, 'exit');
  });
  await once(child, 'spawn');
  await writeFile(join(directory, 'postmaster.pid'), `${child.pid}\n${directory}\n`);
  assert.equal((await runningServer(directory))?.pid, child.pid);

  if (process.platform !== 'linux') return;
  await writeFile(join(directory, 'postmaster.pid'), `${process.pid}\n${directory}\n`);
  assert.equal(await runningServer(directory), undefined);
});

test('a server whose end nobody has noted is neither running nor gone', async (t) => {
  if (process.platform !== 'linux') return t.diagnostic('not run: only Linux tells of it');
  const directory = await makeDirectory(t);
  // A shell may ask after its child at any time; what `exec` makes of it never does.
  const script = 'cat <&3 & echo $!; exec sleep 60';
  const parent = spawn('/bin/sh', ['-c', script], { stdio: ['ignore', 'pipe', 'ignore', 'pipe'] });
  t.after(() => parent.kill('SIGKILL'));
  const [pid] = (await once(parent.stdout as Readable, 'data')) as [Buffer];
  await waitFor('the shell to be replaced', async () => {
    return (await readFile(`/proc/${parent.pid}/comm`, 'utf8')) === 'sleep\n';
  });
  await writeFile(join(directory, 'postmaster.pid'), pid);
  assert.equal(await isEndUnnoted(directory), false);
  (parent.stdio[3] as Writable).end();
  await waitFor('the end that nobody has noted', () => isEndUnnoted(directory));
  assert.equal(await runningServer(directory), undefined);
});

async function makeDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(await realpath(tmpdir()), 'postmaster-pid-'));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}
