/**
 * The attached server's life, without a node around it: started, watched, restarted, stopped, and
 * shut down by its watcher when the process that runs it is killed.
 */
import assert from 'node:assert/strict';
import { appendFile, readFile, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { readControlData } from '../../src/postgres/control-data.ts';
import { runningServer } from '../../src/postgres/postmaster-pid.ts';
import { serverSettings } from '../../src/postgres/server-settings.ts';
import { isSegmentName } from '../../src/wal/segment.ts';
import { AttachedProcess } from '../harness/attached-process.ts';
import { findPostgres, postgresUser, testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { cleanEnvironment } from '../harness/postgres-place.ts';
import { ServerLog } from '../harness/server-log.ts';
import { ServerProcess } from '../harness/server-process.ts';
import { SqlClient } from '../harness/sql-client.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';

test('an attached server follows, comes back from crashes and stops with its node', async (t) => {
  const { primary, attached } = await primaryAndAttached(t);

  // What the primary meant for itself does no harm: the socket, the log, a recovery once made.
  const trigger = join(attached.dataDirectory, '..', 'trigger');
  await writeFile(trigger, '');
  await appendFile(
    join(attached.dataDirectory, 'postgresql.conf'),
    [
      `data_directory = '${primary.dataDirectory}'`,
      `external_pid_file = '/nowhere/postgres.pid'`,
      `hba_file = '/nowhere/pg_hba.conf'`,
      `recovery_target_time = '2020-01-01 00:00:00'`,
      `recovery_end_command = 'touch "${trigger}.ended"'`,
      `archive_cleanup_command = 'touch "${trigger}.cleaned"'`,
      'logging_collector = on',
      'restart_after_crash = on',
      'ssl = on',
      ...(testedMajor() <= 15 ? [`promote_trigger_file = '${trigger}'`] : []),
      '',
    ].join('\n'),
  );
  await attached.start();
  assert.equal(await attached.sql('SELECT pg_is_in_recovery()'), 't');
  await primary.sql('INSERT INTO number VALUES (1)');
  await waitForRows(attached, '1');
  assert.equal(await attached.sql('SHOW listen_addresses'), '');
  assert.equal(
    await primary.sql('SELECT application_name, usename FROM pg_stat_replication'),
    'attached|walcade',
  );

  // A client's log lines come once, and are no news of the server.
  await attached.sql(`DO $$ BEGIN RAISE LOG 'a line'; END $$`);
  await attached.log.waitFor(/LOG: {2}a line\n/);
  assert.equal((await attached.log.text()).split('LOG:  a line\n').length, 2);

  // Its postmaster is killed: it is started again.
  const before = attached.status?.pid ?? 0;
  process.kill(before, 'SIGKILL');
  await waitFor('another postmaster', () => {
    const { state, pid, restarts } = attached.status ?? {};
    return state === 'ready' && pid !== before && restarts !== undefined && restarts > 0;
  });
  assert.match(
    await attached.log.text(),
    /WARNING: {2}the attached PostgreSQL server was terminated by signal SIGKILL/,
  );
  await primary.sql('INSERT INTO number VALUES (2)');
  await waitForRows(attached, '2');

  // One of its processes is killed: it starts anew by itself, and is not ready meanwhile.
  const mark = attached.states.length;
  const restarts = attached.status?.restarts;
  await attached
    .sql(`COPY (SELECT pg_backend_pid()) TO PROGRAM 'read -r pid; kill -9 $pid'`)
    .catch(() => {});
  await waitFor('the server to be ready again', () => {
    const since = attached.states.slice(mark);
    return since.includes('starting') && since.at(-1) === 'ready';
  });
  assert.equal(attached.status?.restarts, restarts);

  // Somebody stops it: it is not what the node is for.
  process.kill(attached.status?.pid ?? 0, 'SIGINT');
  await attached.log.waitFor(/WARNING: {2}the attached PostgreSQL server has ended with exit/);
  await attached.waitForState('ready');

  // Somebody asks it to stop when its clients are gone: the status says whose doing that is.
  const client = await SqlClient.single(attached.settings.sqlSocketDirectory, primary.port);
  const mark2 = await attached.log.mark();
  process.kill(attached.status?.pid ?? 0, 'SIGTERM');
  const stopping = await attached.waitForState('stopping');
  assert.equal(stopping.reason, 'Somebody has asked it to shut down.');
  await client.close();
  await attached.log.waitFor(/WARNING: {2}the attached PostgreSQL server has ended with exit/, {
    since: mark2,
  });
  await attached.waitForState('ready');

  // It stops with the process that runs it.
  assert.equal(await attached.stop(), 'exit status 0');
  assert.equal(attached.status?.state, 'down');
  assert.equal(await runningServer(attached.dataDirectory), undefined);
  await expectCleanEnd(attached);
  assert.deepEqual(await attached.traces(), []);
  assert.doesNotMatch(await attached.log.text(), /could not write external PID file|\bcp: /);
});

test('a server whose node is killed is shut down, cleanly and at any moment', async (t) => {
  const { attached } = await primaryAndAttached(t);
  await attached.start();
  await attached.kill9();
  await attached.waitUntilGone();
  await expectCleanEnd(attached);
  await waitUntilNoTrace(attached);

  // In the middle of a start: as soon as there is a process, and a little later each time.
  for (const sign of [/started the attached/, /starting PostgreSQL/, /entering standby/]) {
    const mark = await attached.log.mark();
    await attached.start({ wait: false });
    await attached.log.waitFor(sign, { since: mark });
    await attached.kill9();
    await waitUntilNoTrace(attached);
  }

  // While it is being stopped.
  await attached.start();
  attached.process.signal('SIGTERM');
  await attached.kill9();
  await attached.waitUntilGone();
  await expectCleanEnd(attached);
  // Its watcher may find the file gone before the process is, and look again a second later.
  await waitUntilNoTrace(attached);

  // A watcher that is killed too is replaced.
  await attached.start();
  const [first, ...others] = await watchers(attached);
  assert.ok(first !== undefined && others.length === 0, 'there is one watcher');
  process.kill(first, 'SIGKILL');
  await attached.log.waitFor(/WARNING: {2}the process that watches the attached server has ended/);
  await waitFor('another watcher', async () => {
    const [now] = await watchers(attached);
    return now !== undefined && now !== first;
  });
  await attached.kill9();
  await attached.waitUntilGone();
  await expectCleanEnd(attached);
});

test('a server left by an earlier node is ended first, any other is let be', async (t) => {
  const { tree, primary, attached } = await primaryAndAttached(t);

  // Ours, by its socket: as after a kill -9 of the node and of the watcher.
  const left = await startByHand(tree, attached, {});
  await attached.start();
  assert.match(await left.exit(), /exit status 0/);
  assert.match(await attached.log.text(), /waiting until the attached PostgreSQL server of an ear/);
  assert.notEqual(attached.status?.pid, left.pid);
  assert.equal(await attached.stop(), 'exit status 0');

  // Somebody else's, on another socket.
  const other = await startByHand(tree, attached, {
    unix_socket_directories: primary.socketDirectory,
    port: String(await tree.reservePort()),
  });
  await attached.start({ wait: false });
  assert.equal(await attached.process.exit(), 'exit status 1');
  assert.match(await attached.log.text(), /FATAL: {2}data directory ".*" is in use by a running/);
  assert.equal(other.outcome, undefined);
  await other.stop('SIGINT');

  // What a killed server leaves behind is no server.
  await attached.start();
  await attached.stop();
  const pidFile = join(attached.dataDirectory, 'postmaster.pid');
  await writeFile(pidFile, `${process.pid}\n${attached.dataDirectory}\n0\n1\n/elsewhere\n`);
  await attached.start();
  await attached.stop();
});

test('a server that does not start is tried again, and tells why', async (t) => {
  const { attached } = await primaryAndAttached(t);

  // The program is missing.
  const { programDirectory } = attached;
  attached.programDirectory = '/nowhere';
  await attached.start({ wait: false });
  const failed = await waitFor('a few attempts', () =>
    (attached.status?.restarts ?? 0) > 1 ? attached.status : undefined,
  );
  assert.match(failed.reason ?? '', /\/nowhere\/postgres/);
  assert.equal(await attached.stop(), 'exit status 0');

  // The server refuses its configuration, until that is mended.
  attached.programDirectory = programDirectory;
  const file = join(attached.dataDirectory, 'postgresql.auto.conf');
  const good = await readFile(file);
  await appendFile(file, 'max_connections = many\n');
  await attached.start({ wait: false });
  await waitFor('its words', () =>
    /FATAL: {2}configuration file/.test(attached.status?.reason ?? ''),
  );
  await writeFile(file, good);
  const { reason } = await attached.waitForState('ready');
  assert.equal(reason, undefined);
});

test('a socket directory may have blanks, commas and quotes in its name', async (t) => {
  const { attached } = await primaryAndAttached(t, { sqlSocketName: 'a "b", c' });
  await attached.start();
  assert.equal(await attached.sql('SELECT pg_is_in_recovery()'), 't');

  // It is known again by that name.
  await attached.kill9();
  await attached.start();
  await attached.stop();
});

test('with restore_command alone a server replays all that its node holds', async (t) => {
  const walName = `o'clock 100%f %p "$HOME" \\n`;
  const { primary, attached } = await primaryAndAttached(t, { walName });
  await attached.start();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  await primary.sql('CHECKPOINT');
  await primary.sql('SELECT pg_switch_wal()');
  await primary.sql('INSERT INTO number VALUES (0)');
  await waitForRows(attached, '1001');
  assert.equal(await attached.stop(), 'exit status 0');
  await primary.sql('INSERT INTO number SELECT generate_series(2000, 2999)');
  await primary.stop();

  // The node's files, but for the last ones; the server has none of its own.
  const from = join(primary.dataDirectory, 'pg_wal');
  const segments = (await readdir(from)).filter(isSegmentName).sort();
  const own = join(attached.dataDirectory, 'pg_wal');
  for (const name of await readdir(own)) if (isSegmentName(name)) await rm(join(own, name));
  const { checkpoint, minRecoveryPoint } = await readControlData(attached.dataDirectory);
  assert.ok(checkpoint < minRecoveryPoint);
  const first = segments.findIndex((name) => name.endsWith(hex(checkpoint >> 24n)));
  await attached.addWal(join(from, segments[first] ?? ''));
  await attached.start({ wait: false });
  await attached.waitForState('replaying');
  assert.doesNotMatch(await attached.log.text(), /\bcp: /);

  // With the rest it is consistent, and has what the primary wrote last.
  for (const name of segments.slice(first + 1)) await attached.addWal(join(from, name));
  await attached.waitForState('ready');
  await waitForRows(attached, '2001');
});

test('an immediate shutdown ends a server whose fast shutdown hangs', async (t) => {
  const { attached } = await primaryAndAttached(t);
  await attached.start();

  // The checkpointer is stopped, so that the shutdown checkpoint never comes.
  const checkpointer = await attached.sql(
    `SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'`,
  );
  process.kill(Number(checkpointer), 'SIGSTOP');
  attached.process.signal('SIGTERM');
  await attached.waitForState('stopping');
  await attached.log.waitFor(/received fast shutdown request/);
  assert.equal(await attached.process.stop('SIGQUIT'), 'exit status 0');
  assert.match(await attached.log.text(), /received immediate shutdown request/);
  await attached.waitUntilGone();
});

async function primaryAndAttached(
  t: TestContext,
  names: { sqlSocketName?: string; walName?: string } = {},
): Promise<{ tree: TestDirectory; primary: PostgresCluster; attached: AttachedProcess }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE ROLE walcade LOGIN REPLICATION');
  await primary.sql('CREATE TABLE number (value int)');
  const backup = await primary.backup(join(tree.path, 'backup'));
  const options = { name: 'attached', from: backup, primary, ...names };
  return { tree, primary, attached: await AttachedProcess.make(tree, options) };
}

/** The server as a node would start it, but with nobody who watches it. */
async function startByHand(
  tree: TestDirectory,
  attached: AttachedProcess,
  changes: Record<string, string>,
): Promise<ServerProcess> {
  const settings = { ...serverSettings(attached.settings), ...changes };
  const { postgres } = await findPostgres();
  const server = await ServerProcess.spawn({
    name: 'by hand',
    program: postgres,
    args: ['-D', attached.dataDirectory].concat(
      Object.entries(settings).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
    ),
    log: new ServerLog(join(tree.path, 'by-hand.log')),
    environment: cleanEnvironment(),
    user: await postgresUser(),
  });
  await waitFor('the server to be ready', async () => {
    const running = await runningServer(attached.dataDirectory);
    return running?.pid === server.pid && running.status === 'ready';
  });
  return server;
}

/** Waits until neither a server is left of it nor who watches one. */
async function waitUntilNoTrace(attached: AttachedProcess): Promise<void> {
  await waitFor('no trace of it', async () => (await attached.traces()).length === 0);
}

async function watchers(attached: AttachedProcess): Promise<number[]> {
  const traces = await attached.traces();
  return traces.filter(({ command }) => command.includes('-watcher')).map(({ pid }) => pid);
}

async function waitForRows(attached: AttachedProcess, count: string): Promise<void> {
  await waitFor(`${count} rows`, async () => {
    return (await attached.sql('SELECT count(*) FROM number')) === count;
  });
}

async function expectCleanEnd(attached: AttachedProcess): Promise<void> {
  assert.equal((await readControlData(attached.dataDirectory)).state, 'shut down in recovery');
}

function hex(segment: bigint): string {
  return segment.toString(16).toUpperCase().padStart(8, '0');
}
