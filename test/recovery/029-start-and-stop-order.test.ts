/**
 * The start and the stop of a node with an attached server: WAL is served from the first moment to
 * the last, SQL in between; who starts a node is told what it waits for, and nobody who is
 * connected holds up its stop.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { appendFile, stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { Client, type ClientConfig } from 'pg';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import {
  assertCleanEnd,
  assertSameRows,
  attachedCluster,
  dataDirectory,
  freezeServer,
  serverStatus,
  standbyBehind,
  waitUntilGone,
  waitUntilReady,
} from '../harness/attached-cluster.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { testedMajor } from '../harness/postgres-binaries.ts';
import { RawSession, describeHeard } from '../harness/raw-session.ts';
import { Load } from '../harness/relayed-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const STOP_MS_MAX = 10_000;
const TERMINATED = '57P01 terminating connection due to administrator command';

test('without its upstream a node serves what it has, WAL and SQL', async (t) => {
  const cluster = await attachedCluster(t);
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  for (const end of ['stopped', 'killed'] as const) {
    // The standby is away while the node receives, and the primary is gone when it is back.
    await standby.stop();
    await primary.sql(`INSERT INTO load (payload) SELECT 'missed' FROM generate_series(1, 1000)`);
    await node.waitForCatchup(primary);
    const rows = await node.dump();
    if (end === 'stopped') assert.equal(await node.stop(), 'exit status 0');
    else await node.kill9();
    await primary.stop();

    // It is ready by itself, and the standby catches up from it.
    await node.start();
    assert.equal(await node.dump(), rows);
    await standby.start();
    await standby.waitForCatchup(node);
    assert.equal(await standby.dump(), rows);
    await primary.start();
  }
  await primary.sql(`INSERT INTO load (payload) VALUES ('back')`);
  await assertSameRows(primary, [node, standby]);
});

test('a node is not ready before SQL is answered, and serves WAL before that', async (t) => {
  const { primary, node } = await attachedCluster(t, {
    startNode: async ({ tree, primary, node }) => {
      // The server has a base backup and the upstream, which has the WAL to its end, is away.
      await primary.stop();
      const starting = node.start();
      const server = await waitFor('the server to start', async () => {
        const status = await node.status().catch(() => undefined);
        return status?.server?.state === 'starting' || status?.server?.state === 'replaying'
          ? status
          : undefined;
      });
      const session = await RawSession.start(tree, node.port);
      const { served } = server.positions;
      assert.deepEqual(await session.answer(`START_REPLICATION ${served}`), ['W']);
      await session.end();
      await assert.rejects(node.sql('SELECT 1'), { code: '57P03' });
      await primary.start();
      await starting;
      assert.equal((await serverStatus(node)).state, 'ready');
    },
  });
  await assertSameRows(primary, [node]);
});

test('who starts a node whose server does not come up is told why', async (t) => {
  const { primary, node } = await attachedCluster(t);
  await node.stop();
  const file = join(dataDirectory(node), 'postgresql.conf');
  const { size } = await stat(file);
  await appendFile(file, 'max_connections = many\n');
  node.expectLog(/attached PostgreSQL server has ended with exit status 1|FATAL: {2}configuration/);
  const start = ['start', '-D', node.directory, '-l', node.log.file];
  const { code, stderr } = await node.cli([...start, '-t', '8']);
  assert.equal(code, 1);
  assert.match(stderr, /node is not ready after 8 s/);
  assert.match(
    stderr,
    /WAL is served; the attached PostgreSQL server is \w+\. .* FATAL: {2}configuration file ".*"/,
  );
  assert.match(stderr, /It goes on starting/);

  // Meanwhile WAL is received; once the file is mended SQL is answered too.
  await primary.sql(`INSERT INTO load (payload) VALUES ('meanwhile')`);
  await node.waitForWal(await primary.currentLsn());
  assert.match((await serverStatus(node)).reason ?? '', /configuration file/);
  await truncate(file, size);
  await waitUntilReady(node);
  assert.equal((await serverStatus(node)).reason, null);
  await assertSameRows(primary, [node]);
  assert.equal((await node.cli(['stop', '-D', node.directory])).stdout, 'node stopped\n');
  await waitUntilGone(node);
});

test('a start that is broken off at any moment leaves nothing behind', async (t) => {
  const { primary, node } = await attachedCluster(t);
  await node.stop();
  for (const mode of ['smart', 'fast'] as const) {
    for (const sign of [
      /listening on 127/,
      /started the attached PostgreSQL server/,
      /starting PostgreSQL/,
      /database system was shut down in recovery/,
      /redo starts at|consistent recovery state/,
      /accept read.only connections/,
    ]) {
      const mark = await node.log.mark();
      await node.start({ wait: false });
      await node.waitForLog(sign, { since: mark });
      assert.equal(await node.stop(mode), 'exit status 0');
      await waitUntilGone(node);
    }
  }
  await node.start();
  await assertSameRows(primary, [node]);
});

test('a stop ends SQL first and WAL last, and nobody is left without a word', async (t) => {
  const cluster = await attachedCluster(t);
  const { tree, primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  const load = new Load(primary, { slot: 'node' });
  const ends: string[] = [];

  // An idle client, one in a transaction, one with a query, one of logical replication.
  const idle = await connect(node);
  const inTransaction = await connect(node, 'BEGIN; SELECT 1');
  const busy = await connect(node);
  const sleeping = busy.client.query('SELECT pg_sleep(1000)').catch((error: unknown) => error);
  const logical = await connect(node, 'IDENTIFY_SYSTEM', { replication: 'database' });
  await node.waitForSql(
    `SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(1000)'
     AND state = 'active' AND pid <> pg_backend_pid()`,
    '1',
  );
  const clients = [idle, inTransaction, busy, logical];
  for (const { ended } of clients) void ended.then(() => ends.push('SQL'));

  // And one that streams WAL.
  const session = await RawSession.start(tree, node.port);
  const { served } = (await node.status()).positions;
  assert.deepEqual(await session.answer(`START_REPLICATION ${served}`), ['W']);
  const streamed = session.until('C').then((heard) => {
    ends.push('WAL');
    return heard;
  });
  const reports = setInterval(() => session.report(parseLsn('FFFFFFFF/0')), 100);

  const startedMs = performance.now();
  assert.equal(await node.stop(), 'exit status 0');
  const tookMs = performance.now() - startedMs;
  clearInterval(reports);
  assert.ok(tookMs < STOP_MS_MAX, `the stop took ${Math.round(tookMs)} ms`);
  assert.deepEqual(await Promise.all([idle.ended, inTransaction.ended, logical.ended]), [
    TERMINATED,
    TERMINATED,
    TERMINATED,
  ]);
  assert.match(String(await sleeping), /terminating connection due to administrator command/);
  assert.equal(describeHeard((await streamed).at(-1) ?? assert.fail()), 'C COPY 0');
  assert.deepEqual(ends, ['SQL', 'SQL', 'SQL', 'SQL', 'WAL']);
  await waitUntilGone(node);
  await assertCleanEnd(node);

  // The standby has all that the node had.
  const { stdout } = await node.cli(['wal', 'verify', join(node.directory, 'pg_wal')]);
  const [, stored = ''] = /proven to ([0-9A-F]+\/[0-9A-F]+)/.exec(stdout) ?? [];
  await standby.waitForReplay(parseLsn(stored));
  t.diagnostic(`stored ${stored}, replayed ${formatLsn(await standby.replayLsn())}`);
  await node.start();
  await load.stop();
  await assertSameRows(primary, [node, standby]);
});

for (const reader of ['reads slowly', 'does not read'] as const) {
  test(`a base backup whose client ${reader} does not hold up a stop`, async (t) => {
    const { tree, primary, node } = await attachedCluster(t);
    await primary.sql(`INSERT INTO load (payload)
      SELECT repeat(md5(i::text), 30) FROM generate_series(1, 30000) i`);
    await node.waitForCatchup(primary);
    const session = await RawSession.start(tree, node.port);
    session.query(
      testedMajor() >= 15
        ? `BASE_BACKUP (LABEL 'test', CHECKPOINT 'fast', WAIT false)`
        : `BASE_BACKUP LABEL 'test' FAST NOWAIT`,
    );
    assert.equal((await session.next())?.type, 'T');
    await waitFor('data', async () => (await session.next())?.type === 'd');
    if (reader === 'does not read') session.stopReading();
    await node.waitForSql(`SELECT count(*) FROM pg_stat_progress_basebackup`, '1');
    const startedMs = performance.now();
    assert.equal(await node.stop(), 'exit status 0');
    const tookMs = performance.now() - startedMs;
    assert.ok(tookMs < STOP_MS_MAX, `the stop took ${Math.round(tookMs)} ms`);
    await waitUntilGone(node);
    await assertCleanEnd(node);
    session.startReading();
    const heard = await session.until('E', 'Z');
    t.diagnostic(`the client heard: ${heard.slice(-3).map(describeHeard).join('; ')}`);
    await node.start();
    await assertSameRows(primary, [node]);
  });
}

test('a node made from a node that stops is refused and leaves nothing', async (t) => {
  const { tree, primary, node } = await attachedCluster(t);
  await primary.sql(`INSERT INTO load (payload)
    SELECT repeat(md5(i::text), 30) FROM generate_series(1, 30000) i`);
  await node.waitForCatchup(primary);
  const network = await FaultyNetwork.between(tree, node.port, { bytesPerSecond: 1_000_000 });
  const made = WalcadeNode.init(tree, {
    name: 'node2',
    upstream: network.conninfo,
    withPostgres: true,
  }).catch((error: unknown) => error);
  await node.waitForSql(`SELECT count(*) FROM pg_stat_progress_basebackup`, '1');
  const startedMs = performance.now();
  assert.equal(await node.stop(), 'exit status 0');
  const tookMs = performance.now() - startedMs;
  assert.ok(tookMs < STOP_MS_MAX, `the stop took ${Math.round(tookMs)} ms`);
  network.setFaults({ bytesPerSecond: 0 });
  const error = String(await made);
  t.diagnostic(error);
  assert.match(error, /walcade init ended with status 1/);
  assert.ok(!existsSync(join(tree.path, 'node2')), 'nothing is left of it');
  await node.start();
});

test('a server that a person stops is started again by its node', async (t) => {
  const { primary, node } = await attachedCluster(t);
  node.expectLog(/WARNING: .*the attached PostgreSQL server has ended with exit status/);
  node.expectLog(/FATAL: {2}terminating (?:connection|walreceiver process) due to/);
  node.expectLog(/WARNING: {2}terminating connection because of unexpected postmaster exit/);
  for (const [round, signal] of (['SIGINT', 'SIGQUIT', 'SIGTERM'] as const).entries()) {
    const mark = await node.log.mark();
    const client = await connect(node);
    const { pid } = await serverStatus(node);
    assert.ok(pid !== null);
    process.kill(pid, signal);
    if (signal === 'SIGTERM') {
      // A smart shutdown waits for who is connected, the test's own connections among them.
      await waitFor('the server to stop', async () => {
        return (await serverStatus(node)).state === 'stopping';
      });
      await client.client.query('SELECT 1');
      await assert.rejects(connect(node), { code: '57P03' });
      await client.client.end();
      assert.equal(await node.stop(), 'exit status 0');
      return waitUntilGone(node);
    }
    await node.waitForLog(/the attached PostgreSQL server has ended/, { since: mark });
    await waitUntilReady(node, { restarts: round + 1 });
    await primary.sql(`INSERT INTO load (payload) VALUES ('after ${signal}')`);
    await waitFor('SQL', () => node.sql('SELECT 1').catch(() => ''));
    await assertSameRows(primary, [node]);
  }
});

test('a server that is stuck holds up a stop, and no immediate one, nor WAL', async (t) => {
  const cluster = await attachedCluster(t);
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster);
  const stop = ['stop', '-D', node.directory];

  // What a stop waits for is said.
  const thaw = await freezeServer(cluster);
  const { code, stderr } = await node.cli([...stop, '-t', '1']);
  assert.equal(code, 1);
  assert.match(stderr, /node does not shut down[^]*It waits for its attached PostgreSQL server/);
  assert.equal((await serverStatus(node)).state, 'stopping');
  assert.equal((await node.cli([...stop, '-m', 'immediate'])).code, 0);
  assert.equal(await node.waitForExit(), 'exit status 2');

  // The next node serves WAL until the old server has gone, which it does as soon as it can.
  const mark = await node.log.mark();
  await node.start({ wait: false });
  await node.waitForLog(/waiting until the attached PostgreSQL server of an earlier/, {
    since: mark,
  });
  await primary.sql(`INSERT INTO load (payload) VALUES ('meanwhile')`);
  await standby.waitForCatchup(primary);
  const { stderr: waiting } = await node.cli(['start', '-D', node.directory]);
  assert.match(waiting, /is already running/);
  assert.equal(await node.stop(), 'exit status 0');
  thaw();
  await waitUntilGone(node);
  await node.start();
  await assertSameRows(primary, [node, standby]);
});

interface Connected {
  client: Client;
  /** The error that ended the connection. */
  ended: Promise<string>;
}

async function connect(
  { port }: WalcadeNode,
  text = 'SELECT 1',
  options: ClientConfig & { replication?: string } = {},
): Promise<Connected> {
  const client = new Client({
    host: '127.0.0.1',
    port,
    user: 'postgres',
    database: 'postgres',
    ...options,
  });
  let said = '';
  const ended = new Promise<string>((resolve) => {
    client.on('error', (error) => {
      const { code } = error as { code?: string };
      said ||= `${code} ${error.message}`;
    });
    client.on('end', () => resolve(said));
  });
  await client.connect();
  await client.query(text);
  return { client, ended };
}
