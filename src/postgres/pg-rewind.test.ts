/** What pg_rewind is given and what is made of its answers, with scripts in its place. */
import assert from 'node:assert/strict';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { waitFor } from '../../test/harness/wait.ts';
import {
  type RewindOptions,
  describeSaid,
  hasRewind,
  recoverFromCrash,
  runRewind,
} from './pg-rewind.ts';

test('pg_rewind is there if it can be run', async (t) => {
  const { target, program } = await makeTarget(t, 'exit 0');
  assert.ok(await hasRewind(target));
  await chmod(program, 0o644);
  assert.ok(!(await hasRewind(target)));
  await rm(program);
  assert.ok(!(await hasRewind(target)));
});

test('it is told what to copy from where, and the password where nobody sees it', async (t) => {
  const { target, directory } = await makeTarget(
    t,
    'echo "$*" > "$0.args"; echo "$PGPASSWORD" >> "$0.args"',
  );
  await runRewind(target, { ...OPTIONS, password: 'secret', dryRun: true });
  const said = await readFile(join(directory, 'pg_rewind.args'), 'utf8');
  assert.equal(said, "-D /srv/data --source-server=host='db1' -n\nsecret\n");
});

// A postgresql.conf with data_directory, as Debian makes it, had another cluster recover.
test('a crash recovery is that of the data directory, whatever is configured', async (t) => {
  const { target, directory } = await makeTarget(t, 'exit 0');
  const server = join(directory, 'postgres');
  await writeFile(server, '#!/bin/sh\necho "$*" > "$0.args"\n', { mode: 0o755 });
  await recoverFromCrash(target, OPTIONS.signal);
  const said = await readFile(`${server}.args`, 'utf8');
  assert.match(said, /^--single -D \/srv\/data .*-c data_directory=\/srv\/data .*template1\n$/);
});

test('what it said of its failure is told', async (t) => {
  const { target } = await makeTarget(
    t,
    'echo "pg_rewind: servers diverged"; echo "pg_rewind: error: no room" >&2; exit 1',
  );
  await assert.rejects(runRewind(target, OPTIONS), {
    sqlstate: '55000',
    message: 'pg_rewind ended with exit status 1',
    detail: 'It said:\npg_rewind: error: no room',
  });
});

test('a signal ends it', async (t) => {
  const { target, directory } = await makeTarget(t, 'touch "$0.begun"; exec sleep 60');
  const stop = new AbortController();
  const running = runRewind(target, { ...OPTIONS, signal: stop.signal });
  const begun = join(directory, 'pg_rewind.begun');
  await waitFor('the program to run', () => readFile(begun).catch(() => undefined));
  stop.abort(new Error('enough'));
  await assert.rejects(running, /^Error: enough$/);
});

test('without an error the last lines are told', () => {
  assert.equal(describeSaid(''), 'It said nothing.');
  assert.equal(describeSaid('1\n2\n\n3\n4\n5\n6\n'), 'It said:\n2\n3\n4\n5\n6');
});

const OPTIONS: RewindOptions = {
  source: "host='db1'",
  password: undefined,
  dryRun: false,
  signal: new AbortController().signal,
};

/** A target whose pg_rewind is a script. */
async function makeTarget(t: TestContext, script: string) {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => rm(directory, { recursive: true }));
  const program = join(directory, 'pg_rewind');
  await writeFile(program, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  const programs = { major: 15, version: '15.1', directory };
  return { directory, program, target: { programs, dataDirectory: '/srv/data', user: undefined } };
}
