/** The archive is asked by real shells: what is there, what is not, and what goes wrong. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { ManualClock } from '../../test/harness/manual-clock.ts';
import { waitFor } from '../../test/harness/wait.ts';
import { type DiskFile, systemDisk } from '../base/disk.ts';
import { RestoreCommand, type WantedFile } from './restore-command.ts';

const NAME = '000000010000000000000005';
const SEGMENT: WantedFile = {
  name: NAME,
  temporaryName: 'RECOVERYXLOG',
  sizeBytes: 4,
  oldestNeeded: '000000010000000000000003',
};
const NEVER = new AbortController().signal;

test('what the archive has is used at its temporary name, and is gone afterwards', async (t) => {
  const { ask, directory } = await archive(t, 'cp archive/%f %p', { [NAME]: 'WAL!' });
  assert.deepEqual(await ask(), { kind: 'restored', result: 'WAL!' });
  assert.deepEqual(await readdir(join(directory, 'pg_wal')), []);
});

test('the command runs in the directory of the node, and is told what is wanted', async (t) => {
  const { ask, directory } = await archive(t, 'echo "%f %p %r %%" > told; pwd >> told; exit 1');
  await ask();
  const told = `${NAME} pg_wal/RECOVERYXLOG 000000010000000000000003 %\n${directory}\n`;
  assert.equal(await readFile(join(directory, 'told'), 'utf8'), told);
});

test('a temporary file that a crash has left is not taken for what was asked for', async (t) => {
  const { ask, directory } = await archive(t, 'true');
  await writeFile(join(directory, 'pg_wal/RECOVERYXLOG'), 'WAL?');
  const why = 'restore_command returned a zero exit status, but there is no file';
  assert.deepEqual(await ask(), { kind: 'missing', why });
});

const MISSING: [command: string, why: string | RegExp][] = [
  ['exit 1', 'child process exited with exit code 1'],
  ['exit 125', 'child process exited with exit code 125'],
  ['echo nothing here; echo "or there" >&2; exit 2', 'nothing here or there'],
  ['cp archive/%f %p', /cannot stat|No such file/],
  ['printf WAL > %p', `archive file "${NAME}" has wrong size: 3 instead of 4`],
];

for (const [command, why] of MISSING) {
  test(`a file is not there when the command is: ${command}`, async (t) => {
    const { ask, directory } = await archive(t, command);
    const outcome = await ask();
    assert.equal(outcome.kind, 'missing');
    if (outcome.kind !== 'missing') return;
    if (typeof why === 'string') assert.equal(outcome.why, why);
    else assert.match(outcome.why, why);
    assert.deepEqual(await readdir(join(directory, 'pg_wal')), []);
  });
}

const FAILURES: [command: string, how: string][] = [
  ['exit 126', 'command not executable'],
  ['a_command_that_nobody_has %f %p', 'command not found'],
  ['kill -9 $$', 'child process was terminated by signal 9: Killed'],
  ['(kill -15 $$) & wait', 'child process was terminated by signal 15: Terminated'],
];

for (const [command, how] of FAILURES) {
  test(`nothing is known of the archive when the command is: ${command}`, async (t) => {
    const { ask, directory } = await archive(t, command);
    const message = `could not restore file "${NAME}" from archive: ${how}`;
    await assert.rejects(ask(), { sqlstate: '38000', message });
    assert.deepEqual(await readdir(join(directory, 'pg_wal')), []);
  });
}

test('what a command that could not do its work has written is told', async (t) => {
  const { ask } = await archive(t, 'echo "no such bucket" >&2; exit 127');
  await assert.rejects(ask(), { detail: 'It has written: no such bucket' });
});

test('a file that is too large is refused', async (t) => {
  const { ask, directory } = await archive(t, 'printf "WAL!?" > %p');
  const message = `archive file "${NAME}" has wrong size: 5 instead of 4`;
  await assert.rejects(ask(), { sqlstate: 'XX001', message });
  assert.deepEqual(await readdir(join(directory, 'pg_wal')), []);
});

test('a link to the file is refused, as nothing is followed out of the store', async (t) => {
  const { ask } = await archive(t, 'ln -s ../archive/%f %p', { [NAME]: 'WAL!' });
  const message = 'could not open file "pg_wal/RECOVERYXLOG": Too many levels of symbolic links';
  await assert.rejects(ask(), { message });
});

test('without its directory the command cannot be run', async (t) => {
  const { ask, directory } = await archive(t, 'exit 0');
  await rm(directory, { recursive: true });
  const message = 'could not run restore_command: No such file or directory';
  await assert.rejects(ask(), { sqlstate: '38000', message });
});

test('a command that is aborted ends with all that it has started', async (t) => {
  const script = 'sleep 1000 & echo $! > child; wait';
  const { ask, directory } = await archive(t, script);
  const stop = new AbortController();
  const asked = ask(stop.signal);
  const child = Number(await waitForContent(join(directory, 'child')));
  const reason = new Error('the test has seen enough');
  stop.abort(reason);
  await assert.rejects(asked, reason);
  await waitForEnd(child);
});

test('a command that takes no notice of being asked to end is killed', async (t) => {
  const script = `trap '' TERM; echo $$ > shell; while :; do sleep 1000; done`;
  const { ask, directory, clock } = await archive(t, script);
  const stop = new AbortController();
  const asked = ask(stop.signal);
  const shell = Number(await waitForContent(join(directory, 'shell')));
  const reason = new Error('the test has seen enough');
  const rejected = assert.rejects(asked, reason);
  stop.abort(reason);
  await clock.pass(2_000);
  await rejected;
  await waitForEnd(shell);
});

test('a process that the command leaves behind is not waited for', async (t) => {
  const script = 'sleep 1000 & echo $! > child; echo done; exit 3';
  const { ask, directory, clock } = await archive(t, script);
  const asked = ask();
  const child = Number(await waitForContent(join(directory, 'child')));
  t.after(() => process.kill(child));
  const over = new AbortController();
  void asked.finally(() => over.abort());
  while (!over.signal.aborted) await clock.pass(1_000);
  assert.deepEqual(await asked, { kind: 'missing', why: 'done' });
});

/** A node's directory with an archive in it, and how to ask that for SEGMENT. */
async function archive(t: TestContext, command: string, files: Record<string, string> = {}) {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-archive-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  for (const name of ['pg_wal', 'archive']) await mkdir(join(directory, name));
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(directory, 'archive', name), content);
  }
  const clock = new ManualClock();
  const restore = new RestoreCommand({
    disk: systemDisk,
    clock,
    directory,
    command: () => command,
  });
  const ask = (signal = NEVER) => restore.restore(SEGMENT, readText, signal);
  return { directory, clock, ask };
}

async function readText(file: DiskFile): Promise<string> {
  const content = Buffer.alloc(await file.sizeBytes());
  await file.read(content, 0);
  return content.toString();
}

function waitForContent(path: string): Promise<string> {
  return waitFor(`something in ${path}`, async () => {
    const content = await readFile(path, 'utf8').catch(() => '');
    return content.endsWith('\n') ? content : '';
  });
}

async function waitForEnd(pid: number): Promise<void> {
  await waitFor(`the end of process ${pid}`, async () => {
    // An orphan that nobody reaps is no process that runs.
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
    return stat === '' || stat.includes(') Z ');
  });
}
