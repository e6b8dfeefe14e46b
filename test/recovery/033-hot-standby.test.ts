/**
 * What SQL people expect of a hot standby, of the one behind a node's port: the primary's data, its
 * refusals, its conflicts with recovery, and what the primary's changes do to it.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { makeTablespace, numberCluster, numberClusterWithNode } from '../harness/number-cluster.ts';
import { postgresUser, testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { SqlClient } from '../harness/sql-client.ts';
import type { SqlServer } from '../harness/sql-server.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('a dump of the node is that of the primary', async (t) => {
  const { primary, node } = await numberClusterWithNode(t);
  // WAL has a sequence some values ahead of what was given out, unless it was set.
  await primary.sql(
    `CREATE TABLE parent (id serial PRIMARY KEY, value text) PARTITION BY RANGE (id);
     CREATE TABLE child PARTITION OF parent FOR VALUES FROM (1) TO (1000);
     INSERT INTO parent (value) SELECT repeat('x', n * 20) FROM generate_series(1, 10) n;
     SELECT setval('parent_id_seq', 10);
     CREATE VIEW long AS SELECT * FROM parent WHERE length(value) > 100;
     SELECT lo_from_bytea(0, '\\xcafe');
     CREATE UNLOGGED TABLE unlogged (id int);`,
  );
  await node.waitForCatchup(primary);
  assert.equal(await node.dump(), await primary.dump());
  const tools = await findTools(['pg_dump']);
  if (tools === undefined || tools.major < testedMajor()) {
    t.diagnostic('this machine has no pg_dump for the tested major: tables were compared only');
    return;
  }
  const dump = async ({ port }: SqlServer): Promise<string> => {
    const where = ['-h', '127.0.0.1', '-p', `${port}`, '-U', 'postgres'];
    // What an unlogged table holds cannot be read on a standby.
    const { stdout } = await tools.run('pg_dump', [...where, '--no-unlogged-table-data']);
    return stdout.replace(/^\\(un)?restrict .*$/gm, '');
  };
  const ofNode = await dump(node);
  assert.match(ofNode, /CREATE VIEW public\.long/);
  assert.equal(ofNode, await dump(primary));
});

test('a query in conflict with recovery is cancelled, unless feedback is sent', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const lower = await WalcadeNode.init(tree, {
    name: 'lower',
    upstream: node.conninfo,
    withPostgres: true,
  });
  await lower.start();
  const xmin = `SELECT xmin FROM pg_replication_slots WHERE slot_name = 'node'`;
  for (const server of [node, lower]) {
    server.expectLog(/canceling statement due to conflict with recovery/);
    await reconfigure(server, { max_standby_streaming_delay: '0', max_standby_archive_delay: '0' });
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    await server.waitForCatchup(primary);
    const cancelled = assert.rejects(server.sql(LONG_QUERY), {
      code: '40001',
      message: 'canceling statement due to conflict with recovery',
    });
    await server.waitForSql(
      `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'`,
      '1',
    );
    await removeRows(primary);
    await cancelled;
    assert.equal(await primary.sql(xmin), '');
  }

  // With feedback the rows stay, as the primary is told through every node between.
  for (const server of [node, lower]) {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    await server.waitForCatchup(primary);
    await reconfigure(server, { hot_standby_feedback: 'on' });
    const reader = await SqlClient.single('127.0.0.1', server.port);
    await reader.run('BEGIN ISOLATION LEVEL REPEATABLE READ');
    const held = await reader.run('SELECT pg_snapshot_xmin(pg_current_snapshot())');
    await primary.waitForSql(xmin, held);
    await removeRows(primary);
    await server.waitForCatchup(primary);
    assert.equal(await reader.run('SELECT count(*) FROM number'), '1000');
    assert.equal(await server.sql('SELECT count(*) FROM number'), '0');
    await reader.close();
    await reconfigure(server, { hot_standby_feedback: 'off' });
    await primary.waitForSql(xmin, '');
  }
});

test('a tablespace that cannot be made here stops the server, and no WAL', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const location = await makeTablespace({ tree, primary }, 'mapped');
  const elsewhere = join(tree.path, 'elsewhere');
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: primary.conninfo,
    withPostgres: true,
    args: ['--tablespace-mapping', `${location}=${elsewhere}`],
  });
  await node.start();
  await primary.sql('CREATE TABLE placed TABLESPACE mapped AS SELECT 1 AS value');
  await node.waitForCatchup(primary);
  assert.equal(await node.dump(), await primary.dump());
  const path = await node.sql(`SELECT pg_relation_filepath('placed')`);
  assert.match(await fs.realpath(join(node.directory, 'data', path)), new RegExp(`^${elsewhere}/`));

  // One that is on the primary's machine only.
  await node.stop();
  const gone = await makeTablespace({ tree, primary }, 'gone');
  await primary.sql('DROP TABLESPACE gone');
  await fs.rm(gone, { recursive: true });
  await primary.sql('INSERT INTO number VALUES (2)');
  node.expectLog(/gone|attached (?:PostgreSQL )?server|startup process/);
  await node.start({ wait: false });
  await node.waitForLog(new RegExp(`FATAL: {2}directory "${gone}" does not exist`));
  await node.waitForWal(await primary.currentLsn());
  // It is ready for a moment at each attempt, as what it has replayed by then is consistent.
  await waitFor('the status to tell why the server is down', async () => {
    const { server } = await node.status();
    return server?.state !== 'ready' && server?.reason?.includes(`"${gone}" does not exist`);
  });

  // As soon as there is a place for it the server goes on, by itself.
  await tree.makeDirectory('gone');
  const user = await postgresUser();
  if (user !== undefined) await fs.chown(gone, user.uid, user.gid);
  await waitFor('the server to answer', () => node.sql('SELECT 1').catch(() => false));
  await node.waitForCatchup(primary);
  assert.equal(await node.dump(), await primary.dump());
});

test('a tablespace that is shared with the primary outlives the node', async (t) => {
  // It was removed with the node, and the primary did not start any more.
  const { tree, primary, node } = await numberClusterWithNode(t);
  const shared = await makeTablespace({ tree, primary }, 'shared');
  await primary.sql('CREATE TABLE precious TABLESPACE shared AS SELECT 1 AS value');
  await node.waitForCatchup(primary);
  assert.equal(await node.sql('SELECT value FROM precious'), '1');
  await node.stop();
  const { code, stdout } = await node.cli(['remove', '-D', node.directory, '--yes']);
  assert.equal(code, 0);
  assert.match(stdout, new RegExp(`; its data is left in "${shared}"$`, 'm'));
  await primary.restart();
  assert.equal(await primary.sql('SELECT value FROM precious'), '1');
});

test('limits that are raised on the primary are met by the node itself', async (t) => {
  // From 14 on the server paused replay, ready all the while, until somebody restarted the node.
  const { primary, node } = await numberClusterWithNode(t);
  node.expectLog(/hot standby is not possible because/);
  // 13 shuts down instead.
  if (testedMajor() === 13) node.expectLog(/the attached PostgreSQL server has ended with exit/);
  for (const [restarts, connections, locks] of [
    [1, '60', '100'],
    [2, '70', '200'],
  ] as const) {
    await primary.configure({ max_connections: connections, max_locks_per_transaction: locks });
    await primary.restart();
    await primary.sql('INSERT INTO number VALUES (-1)');
    await waitFor('the server to be ready with the new limits', async () => {
      const { server } = await node.status();
      return server?.restarts === restarts && server.state === 'ready' && server.reason === null;
    });
    await node.waitForCatchup(primary);
    assert.equal(await node.dump(), await primary.dump());
    assert.equal(await node.sql('SHOW max_connections'), connections);
    assert.equal(await node.sql('SHOW max_locks_per_transaction'), locks);
  }
  if (testedMajor() === 13) return;
  const log = await node.log.text();
  assert.match(log, /restarting the attached PostgreSQL server with raised limits\n/);
  assert.match(log, /WAL asks for max_connections = 60, max_locks_per_transaction = 100\.\n/);

  // Where a start would not mend it, replay stays paused, and the status tells.
  const file = join(node.directory, 'data/postgresql.auto.conf');
  const good = await fs.readFile(file);
  await fs.appendFile(file, 'max_connections = many\n');
  await primary.configure({ max_connections: 80 });
  await primary.restart();
  await waitFor('the status to tell of the pause', async () => {
    const { server } = await node.status();
    return server?.state === 'ready' && server.reason?.startsWith('It has paused replay because');
  });
  assert.equal(await node.sql('SELECT pg_get_wal_replay_pause_state()'), 'paused');
  assert.equal((await node.status()).server?.restarts, 2);
  await fs.writeFile(file, good);
  await node.restart();
  await node.waitForCatchup(primary);
  assert.equal(await node.sql('SHOW max_connections'), '80');
});

test('libpq tells the node from the primary by their session attributes', async (t) => {
  const tools = await findTools(['psql']);
  if (tools === undefined) {
    t.diagnostic('this machine has no psql: nothing was shown');
    return;
  }
  const { primary, node } = await numberClusterWithNode(t);
  const ask = async (ports: number[], wanted: string): Promise<string> => {
    const conninfo = `host=127.0.0.1,127.0.0.1 port=${ports.join()} user=postgres dbname=postgres`;
    const where = ['-d', `${conninfo} target_session_attrs=${wanted}`];
    const query = ['-AtX', '-c', 'SELECT pg_is_in_recovery()'];
    return (await tools.run('psql', [...where, ...query])).stdout.trim();
  };
  for (const ports of [
    [node.port, primary.port],
    [primary.port, node.port],
  ]) {
    for (const wanted of ['standby', 'read-only', 'prefer-standby']) {
      assert.equal(await ask(ports, wanted), 't', wanted);
    }
    for (const wanted of ['primary', 'read-write']) {
      assert.equal(await ask(ports, wanted), 'f', wanted);
    }
  }
  await assert.rejects(ask([node.port, node.port], 'read-write'), /read-only|hot standby mode/);
});

test('every statement has the outcome that it has on a plain standby', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  node.expectLog(/ERROR:/);
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  await primary.sql(
    `CREATE UNLOGGED TABLE unlogged (id int);
     CREATE MATERIALIZED VIEW seen AS SELECT 1 AS value;
     CREATE SEQUENCE counter;
     SELECT lo_from_bytea(4242, '\\xcafe');
     CREATE FUNCTION changing() RETURNS void LANGUAGE sql AS 'DELETE FROM number';`,
  );
  const outcomes: Record<string, string[]> = {};
  for (const server of [standby, node]) {
    await server.waitForCatchup(primary);
    const client = await SqlClient.single(hostOf(server), server.port);
    outcomes[server.name] = [];
    for (const statement of STATEMENTS) {
      const outcome = await client.run(statement).catch((error: { code?: string }) => error.code);
      outcomes[server.name]?.push(`${statement}: ${outcome}`);
      await client.run('ROLLBACK');
    }
    await client.close();
  }
  assert.deepEqual(outcomes['node'], outcomes['standby']);
  assert.ok(outcomes['node']?.some((outcome) => outcome.endsWith(': 25006')));
});

const LONG_QUERY = 'SELECT count(pg_sleep(60)) FROM number';

const STATEMENTS = [
  'SELECT count(*) FROM number',
  'BEGIN; DECLARE c CURSOR FOR SELECT * FROM number; FETCH 1 FROM c',
  'BEGIN; LOCK TABLE number IN ACCESS SHARE MODE',
  'BEGIN; LOCK TABLE number IN ACCESS EXCLUSIVE MODE',
  'BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT count(*) FROM number',
  'BEGIN READ WRITE',
  'SET transaction_read_only = off',
  'SET default_transaction_read_only = off',
  'SELECT * FROM number FOR UPDATE',
  'SELECT * FROM unlogged',
  'SELECT lo_get(4242)',
  'SELECT lo_create(0)',
  'SELECT lo_unlink(4242)',
  `SELECT lo_put(4242, 0, '\\x00')`,
  'CREATE TEMP TABLE temporary (id int)',
  'CREATE TABLE anything (id int)',
  'INSERT INTO number VALUES (1)',
  'TRUNCATE number',
  'SELECT changing()',
  `SELECT nextval('counter')`,
  'SELECT last_value FROM counter',
  'REFRESH MATERIALIZED VIEW seen',
  'VACUUM number',
  'ANALYZE number',
  'CHECKPOINT',
  'REINDEX TABLE number',
  'COPY number FROM stdin',
  'EXPLAIN (ANALYZE, TIMING off, SUMMARY off, COSTS off, BUFFERS off) SELECT 1',
  'EXPLAIN ANALYZE INSERT INTO number VALUES (1)',
  'LISTEN news',
  'UNLISTEN *',
  'NOTIFY news',
  `PREPARE TRANSACTION 'two-phase'`,
  'PREPARE statement AS SELECT 1; EXECUTE statement; DEALLOCATE statement',
  'SELECT pg_advisory_lock(1), pg_advisory_unlock(1)',
  'SELECT pg_current_wal_lsn()',
  'SELECT pg_is_in_recovery()',
  'SELECT pg_create_restore_point($$point$$)',
  'SELECT pg_switch_wal()',
  'SELECT txid_current()',
  'SELECT txid_current_if_assigned()',
  'SELECT length(pg_export_snapshot())',
  'CREATE ROLE somebody',
  'SHOW in_hot_standby',
  'SHOW transaction_read_only',
  'DO $$ BEGIN PERFORM 1; END $$',
  'no such statement',
];

/** Deletes all rows, and has what they took up cleaned, but for the end of the file. */
async function removeRows(primary: PostgresCluster): Promise<void> {
  await primary.sql('DELETE FROM number');
  await primary.sql('VACUUM (TRUNCATE false) number');
}

function hostOf(server: PostgresCluster | WalcadeNode): string {
  return server instanceof PostgresCluster ? server.socketDirectory : '127.0.0.1';
}

/** Sets parameters of the attached server, as its administrator does. */
async function reconfigure(node: WalcadeNode, settings: Record<string, string>): Promise<void> {
  for (const [name, value] of Object.entries(settings)) {
    await node.sql(`ALTER SYSTEM SET ${name} = '${value}'`);
  }
  await node.sql('SELECT pg_reload_conf()');
  for (const [name, value] of Object.entries(settings))
    await node.waitForSql(`SHOW ${name}`, value);
}
