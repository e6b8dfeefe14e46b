/** The attached server's command line, and that what is quoted in it comes out as it went in. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, watch, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { formatSocketDirectory, restoreCommand, serverSettings } from './server-settings.ts';

const OPTIONS = {
  major: 18,
  dataDirectory: '/srv/slave/data',
  hbaFile: '/srv/slave/private/pg_hba.conf',
  identFile: '/srv/slave/private/pg_ident.conf',
  sqlSocketDirectory: '/srv/slave/private/sql',
  walSocketDirectory: '/srv/slave/private/wal',
  walDirectory: '/srv/slave/pg_wal',
  port: 4002,
  clusterName: 'slave',
};

const ODD_NAMES = [
  'plain',
  'a blank',
  "o'clock",
  '100%f %p%',
  'back\\slash',
  '"$HOME"`id`;#&',
  '-n',
];

test('the server listens on its private socket only, and receives from the node', () => {
  const settings = serverSettings(OPTIONS);
  assert.equal(settings['listen_addresses'], '');
  assert.equal(settings['unix_socket_directories'], '"/srv/slave/private/sql"');
  assert.equal(settings['port'], '4002');
  assert.equal(
    settings['primary_conninfo'],
    "host='/srv/slave/private/wal' port='4002' user='walcade' application_name='slave'",
  );
});

test('settings that only some majors have are given to those only', () => {
  const names = ['stats_temp_directory', 'promote_trigger_file', 'sync_replication_slots'];
  const given = (major: number): string[] => {
    const settings = serverSettings({ ...OPTIONS, major });
    return names.filter((name) => name in settings);
  };
  assert.deepEqual(given(13), ['stats_temp_directory', 'promote_trigger_file']);
  assert.deepEqual(given(14), ['stats_temp_directory', 'promote_trigger_file']);
  assert.deepEqual(given(15), ['promote_trigger_file']);
  assert.deepEqual(given(16), []);
  assert.deepEqual(given(17), ['sync_replication_slots']);
  assert.deepEqual(given(18), ['sync_replication_slots']);
});

test('values of primary_conninfo are quoted as libpq wants them', () => {
  const settings = serverSettings({
    ...OPTIONS,
    walSocketDirectory: "/it's a\\dir",
    clusterName: "o'clock",
  });
  assert.equal(
    settings['primary_conninfo'],
    "host='/it\\'s a\\\\dir' port='4002' user='walcade' application_name='o\\'clock'",
  );
});

test('a socket directory is one element of a list, whatever is in its name', () => {
  assert.equal(formatSocketDirectory('/a, "b"'), '"/a, ""b"""');
  assert.equal(formatSocketDirectory('/ö c,'), '"/ö c,"');
});

for (const name of ODD_NAMES) {
  test(`restore_command copies from a directory named ${name}`, async (t) => {
    const { walDirectory, dataDirectory } = await makeDirectories(t, name);
    await writeFile(join(walDirectory, '000000010000000000000003'), 'a segment');
    const result = await restore({ walDirectory, dataDirectory }, '000000010000000000000003');
    assert.deepEqual(result, { code: 0, output: '' });
    assert.equal(await readFile(join(dataDirectory, 'pg_wal/RECOVERYXLOG'), 'utf8'), 'a segment');
  });
}

test('restore_command waits for the node, but not for one that is gone', async (t) => {
  const { walDirectory, dataDirectory } = await makeDirectories(t, "o'clock");
  const segment = join(walDirectory, '000000010000000000000003');
  await writeFile(segment, 'before');
  const request = join(walDirectory, 'restoring');
  const restored = join(dataDirectory, 'pg_wal/RECOVERYXLOG');
  const place = { walDirectory, dataDirectory, request };
  assert.equal((await restore(place, '000000010000000000000003')).code, 0);
  assert.equal(await readFile(restored, 'utf8'), 'before');

  const restoring = restore(place, '000000010000000000000003');
  for await (const { filename } of watch(walDirectory)) {
    if (filename !== 'restoring' || !existsSync(request)) continue;
    await writeFile(segment, 'all');
    await rm(request);
    break;
  }
  assert.deepEqual(await restoring, { code: 0, output: '' });
  assert.equal(await readFile(restored, 'utf8'), 'all');
});

test('restore_command asks the node only of a segment that no other follows', async (t) => {
  const directories = await makeDirectories(t, "o'clock");
  const request = join(directories.walDirectory, '..', 'restoring');
  const asked = async (file: string): Promise<boolean> => {
    const result = await restore({ ...directories, request }, file);
    assert.deepEqual(result, { code: 0, output: '' });
    const isThere = existsSync(request);
    await rm(request, { force: true });
    return isThere;
  };
  const names = ['00000002.history', '0000000A00000001000000FE', '0000000A00000001000000FF'];
  const more = ['0000000A0000000200000000', '0000000A0000000F00000009', '0000000A0000000F0000000A'];
  for (const name of [...names, ...more]) {
    await writeFile(join(directories.walDirectory, name), 'WAL');
  }
  for (const name of [...names, '0000000A0000000F00000009']) {
    assert.equal(await asked(name), false, name);
  }
  assert.equal(await asked('0000000A0000000F0000000A'), true);
});

test('restore_command is silent about a file that is not there', async (t) => {
  const directories = await makeDirectories(t, "o'clock");
  const result = await restore(directories, '00000002.history');
  assert.deepEqual(result, { code: 1, output: '' });
  assert.deepEqual(await readdir(join(directories.dataDirectory, 'pg_wal')), []);
});

test('a copy that breaks off is no success, and no reason to give up', async (t) => {
  const { walDirectory, dataDirectory } = await makeDirectories(t, 'plain');
  await writeFile(join(walDirectory, '000000010000000000000003'), 'a segment');
  const programs = join(walDirectory, '..', 'programs');
  await mkdir(programs);
  for (const script of ['printf half >"$2"; exit 1', 'printf half >"$2"; kill -9 $$', 'exit 200']) {
    await writeFile(join(programs, 'cp'), `#!/bin/sh\n${script}\n`);
    await chmod(join(programs, 'cp'), 0o755);
    const path = `${programs}:${process.env['PATH']}`;
    const result = await restore({ walDirectory, dataDirectory, path }, '000000010000000000000003');
    assert.equal(result.code, 1, script);
  }
  // A missing cp is status 127 to the shell.
  const result = await restore(
    { walDirectory, dataDirectory, path: join(walDirectory, 'nowhere') },
    '000000010000000000000003',
  );
  assert.equal(result.code, 1);
});

async function makeDirectories(
  t: TestContext,
  name: string,
): Promise<{ walDirectory: string; dataDirectory: string }> {
  const directory = await mkdtemp(join(tmpdir(), 'restore-command-'));
  t.after(() => rm(directory, { recursive: true }));
  const walDirectory = join(directory, name);
  const dataDirectory = join(directory, 'data');
  await mkdir(walDirectory);
  await mkdir(join(dataDirectory, 'pg_wal'), { recursive: true });
  return { walDirectory, dataDirectory };
}

/** Runs the command as the server does: BuildRestoreCommand(), system(). */
function restore(
  place: { walDirectory: string; dataDirectory: string; path?: string; request?: string },
  file: string,
): Promise<{ code: number; output: string }> {
  const values: Record<string, string> = { '%f': file, '%p': 'pg_wal/RECOVERYXLOG', '%%': '%' };
  const command = restoreCommand(place.walDirectory, place.request ?? '/nowhere/restoring').replace(
    /%./g,
    (each) => {
      const value = values[each];
      assert.ok(value !== undefined, `PostgreSQL 16 refuses ${each}`);
      return value;
    },
  );
  const env = { ...process.env, PATH: place.path ?? process.env['PATH'] };
  return new Promise((resolve) => {
    const options = { cwd: place.dataDirectory, env };
    const child = execFile('/bin/sh', ['-c', command], options, (_error, stdout, stderr) => {
      resolve({ code: child.exitCode ?? -1, output: stdout + stderr });
    });
  });
}
