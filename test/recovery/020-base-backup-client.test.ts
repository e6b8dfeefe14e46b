/**
 * Base backups by the program's own client, from real servers: tablespaces, timelines, standbys,
 * and networks that die meanwhile.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { backUp } from '../harness/base-backup.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { postgresUser } from '../harness/postgres-binaries.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { TestDirectory } from '../harness/test-directory.ts';

test('a standby starts from a backup with a tablespace, which lies elsewhere', async (t) => {
  const { tree, primary, location } = await primaryWithTablespace(t);
  await primary.sql(`INSERT INTO number SELECT generate_series(1, 100000)`);
  const directory = join(tree.path, 'backup');
  const elsewhere = join(await tree.makeDirectory('mapped'), 'ts');
  const reports: { doneBytes: number; totalBytes: number }[] = [];
  const backup = await backUp(directory, {
    port: primary.port,
    tablespaceMapping: new Map([[location, elsewhere]]),
    onProgress: (progress) => reports.push(progress),
  });
  assert.ok(backup.start < backup.end);
  assert.deepEqual([backup.timeline, backup.endTimeline], [1, 1]);
  assert.deepEqual(backup.tablespaces, [
    { oid: await primary.sql(OID_OF_TABLESPACE), location: elsewhere, existed: false },
  ]);
  const last = { doneBytes: backup.bytes, totalBytes: backup.bytes };
  assert.deepEqual(reports.at(-1), last);

  // It belongs to who runs the server on it, and to nobody else.
  for (const path of [directory, elsewhere, join(directory, 'global/pg_control')]) {
    const { uid, mode } = await fs.stat(path);
    assert.equal(uid, (await postgresUser())?.uid ?? process.getuid?.());
    assert.equal(mode & 0o077, 0);
  }

  // Rows of before and after the backup arrive on the standby, in its own tablespace.
  await primary.sql(`INSERT INTO number SELECT generate_series(1, 1000)`);
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: directory,
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  assert.equal(
    await standby.sql(`SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'ts'`),
    elsewhere,
  );
  await primary.sql('CREATE TABLE later TABLESPACE ts AS SELECT 1');
  await standby.waitForCatchup(primary);
  assert.equal(await standby.sql('SELECT count(*) FROM later'), '1');
});

test('pg_verifybackup finds nothing wrong with a backup', async (t) => {
  const tools = await findTools(['pg_verifybackup']);
  if (tools === undefined) {
    t.diagnostic('this machine has no pg_verifybackup: only our own verification was shown');
    return;
  }
  const { tree, primary, location } = await primaryWithTablespace(t, tools.binaries);
  const directory = join(tree.path, 'backup');
  const tablespaceMapping = new Map([[location, join(tree.path, 'ts')]]);
  await backUp(directory, { port: primary.port, tablespaceMapping });
  const { stdout } = await tools.run('pg_verifybackup', ['-n', directory]);
  assert.match(stdout, /backup successfully verified/);
});

test('a standby is backed up, on whatever timeline it is', async (t) => {
  const { tree, primary, location } = await primaryWithTablespace(t);
  const first = await backUpTo(tree, 'first', { port: primary.port, location });
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: first.directory,
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  await primary.stop();
  const second = await backUpTo(tree, 'second', {
    port: standby.port,
    location: first.tablespace,
  });
  assert.deepEqual([second.timeline, second.endTimeline], [1, 1]);

  // After its promotion the backup is of the new timeline.
  await standby.promote();
  await standby.sql('CHECKPOINT');
  await standby.sql(`INSERT INTO number SELECT generate_series(1, 1000)`);
  const third = await backUpTo(tree, 'third', { port: standby.port, location: first.tablespace });
  assert.deepEqual([third.timeline, third.endTimeline], [2, 2]);
  const below = await PostgresCluster.standby(tree, {
    name: 'below',
    from: third.directory,
    upstreamConninfo: standby.conninfo,
  });
  await below.start();
  await below.waitForCatchup(standby);
  assert.equal(await below.dump(), await standby.dump());
});

test('a backup that is stopped, or whose network dies, leaves nothing', async (t) => {
  const { tree, primary, location } = await primaryWithTablespace(t);
  const network = await FaultyNetwork.between(tree, primary.port);
  const place = await tree.makeDirectory('place');
  const take = (onProgress: () => void, signal: AbortSignal) =>
    backUp(join(place, 'data'), {
      port: network.port,
      tablespaceMapping: new Map([[location, join(place, 'ts')]]),
      onProgress,
      signal,
    });
  const stop = new AbortController();
  const reason = new Error('that will do');
  await assert.rejects(
    take(() => stop.abort(reason), stop.signal),
    (error) => error === reason,
  );
  assert.deepEqual(await fs.readdir(place), []);
  await assert.rejects(
    take(() => network.resetAll(), new AbortController().signal),
    { sqlstate: '08006', message: 'connection to upstream was lost during the base backup' },
  );
  assert.deepEqual(await fs.readdir(place), []);

  // The server is none the worse, and the next one succeeds.
  await take(() => {}, new AbortController().signal);
});

test('a backup over the directory of the server itself is refused', async (t) => {
  const { tree, primary, location } = await primaryWithTablespace(t);
  const directory = join(tree.path, 'backup');
  await assert.rejects(backUp(directory, { port: primary.port }), {
    sqlstate: '58P02',
    message: `directory "${location}" exists but is not empty`,
    hint: `Use --tablespace-mapping "${location}=DIRECTORY" to put it elsewhere.`,
  });
  await assert.rejects(fs.stat(directory), { code: 'ENOENT' });
  assert.equal(await primary.sql('SELECT count(*) FROM number'), '0');
});

const OID_OF_TABLESPACE = `SELECT oid FROM pg_tablespace WHERE spcname = 'ts'`;

/** A backup in a directory of this name, its tablespace beside it. */
async function backUpTo(
  tree: TestDirectory,
  name: string,
  { port, location }: { port: number; location: string },
) {
  const directory = join(tree.path, name);
  const tablespace = `${directory}-ts`;
  const tablespaceMapping = new Map([[location, tablespace]]);
  return { ...(await backUp(directory, { port, tablespaceMapping })), directory, tablespace };
}

/** A running primary with a table `number` in tablespace `ts`. */
async function primaryWithTablespace(t: TestContext, binaries?: PostgresCluster['binaries']) {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary', binaries });
  await primary.start();
  const location = await tree.makeDirectory('primary-ts');
  const user = await postgresUser();
  if (user !== undefined) await fs.chown(location, user.uid, user.gid);
  await primary.sql(`CREATE TABLESPACE ts LOCATION '${location}'`);
  await primary.sql('CREATE TABLE number (value int) TABLESPACE ts');
  return { tree, primary, location };
}
