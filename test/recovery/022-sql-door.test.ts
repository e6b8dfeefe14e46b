/**
 * SQL through the front door of a node, to a real server: whatever a client does with PostgreSQL it
 * does through the door, and sees and leaves behind the same.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { type TestContext, test } from 'node:test';
import { Client, type ClientConfig } from 'pg';
import { message } from '../../src/protocol/bytes.ts';
import {
  encodeCopyData,
  encodeQuery,
  encodeTerminate,
} from '../../src/protocol/frontend-messages.ts';
import { encodeCancelRequest, encodeStartup } from '../../src/protocol/startup.ts';
import { PostgresCluster, type Settings } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { RawSession, describeHeard } from '../harness/raw-session.ts';
import { SqlDoor } from '../harness/sql-door.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';

const SQL = { user: 'postgres', database: 'postgres', replication: 'off' };
const PROTOCOL_3_2 = 0x0003_0002;
const MEGABYTE = 1_000_000;

test('fifty sessions at once are each their own, and one of them is canceled', async (t) => {
  const { open, server } = await doorToServer(t, { settings: { max_connections: 70 } });
  const clients = await Promise.all(Array.from({ length: 50 }, (_, i) => open(`client ${i}`)));
  const answers = await Promise.all(
    clients.map((client, i) =>
      client.query<{ n: number; pid: number }>('SELECT $1::int AS n, pg_backend_pid() AS pid', [i]),
    ),
  );
  assert.deepEqual(
    answers.map(({ rows }) => rows[0]?.n),
    clients.map((_, i) => i),
  );
  assert.equal(new Set(answers.map(({ rows }) => rows[0]?.pid)).size, 50);

  // All but one go on; the one that is canceled can go on afterwards.
  const sleeping = clients.map((client) => client.query('SELECT pg_sleep(5)').then(() => 'slept'));
  const [canceled] = clients;
  assert.ok(canceled);
  const asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
  await server.waitForSql(asleep, '50');
  // Awaited from before: its end may be there sooner than that of the cancel request.
  const refused = assert.rejects(sleeping[0] ?? assert.fail(), { code: '57014' });
  await cancel(canceled);
  await refused;
  assert.deepEqual(new Set(await Promise.all(sleeping.slice(1))), new Set(['slept']));
  assert.equal((await canceled.query('SELECT 1')).rowCount, 1);
});

test('a key of any protocol version cancels its session, and nothing else does', async (t) => {
  const { tree, port, server } = await doorToServer(t);
  for (const version of [undefined, PROTOCOL_3_2]) {
    const session = await RawSession.open(tree, port);
    session.write(encodeStartup(SQL, version));
    const greeting = await session.until('Z');
    const key = greeting.find(({ type }) => type === 'K')?.body ?? assert.fail();
    const isLong = version === PROTOCOL_3_2 && server.binaries.major >= 18;
    assert.equal(key.length, isLong ? 36 : 8);
    session.query('SELECT pg_sleep(60)');
    await server.waitForSql(
      "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%sleep(60)%' AND state = 'active'" +
        ' AND pid <> pg_backend_pid()',
      '1',
    );
    const pid = key.readInt32BE(0);
    const wrong = Buffer.alloc(key.length - 4);
    for (const secret of [wrong, key.subarray(4)]) {
      const requester = await RawSession.open(tree, port);
      requester.write(encodeCancelRequest(pid, secret));
      await requester.waitForEnd();
    }
    assert.deepEqual((await session.until('Z')).map(describeHeard).slice(-2), [
      'E ERROR 57014 canceling statement due to user request',
      'Z I',
    ]);
    await session.end();
  }
});

test('temporary tables live and end with their session', async (t) => {
  const { open, server } = await doorToServer(t);
  const one = await open('one');
  const other = await open('other');
  await one.query('CREATE TEMPORARY TABLE mine AS SELECT generate_series(1, 10) AS i');
  await other.query('CREATE TEMPORARY TABLE mine AS SELECT 1 AS i');
  assert.deepEqual((await one.query('SELECT count(*)::int FROM mine')).rows, [{ count: 10 }]);
  assert.deepEqual((await other.query('SELECT count(*)::int FROM mine')).rows, [{ count: 1 }]);
  await one.end();
  await server.waitForSql("SELECT count(*) FROM pg_class WHERE relname = 'mine'", '1');
});

test('COPY goes in and out, and a failure in the middle of it is told', async (t) => {
  const { tree, port, server } = await doorToServer(t);
  await server.sql('CREATE TABLE line (i int PRIMARY KEY, text text)');
  const session = await RawSession.start(tree, port, SQL);
  const line = (i: number): string => `${i}\t${'x'.repeat(1000)}\n`;

  session.query('COPY line FROM STDIN');
  assert.equal((await session.next())?.type, 'G');
  for (let i = 0; i < 20_000; i++) session.write(encodeCopyData(Buffer.from(line(i))));
  session.write(message('c'));
  assert.deepEqual((await session.until('Z')).map(describeHeard), ['C COPY 20000', 'Z I']);

  session.query('COPY (SELECT * FROM line ORDER BY i) TO STDOUT');
  const out = await session.until('Z');
  const copied = out.filter(({ type }) => type === 'd').map(({ body }) => body.toString());
  assert.deepEqual(
    copied,
    Array.from({ length: 20_000 }, (_, i) => line(i)),
  );

  session.query('COPY line FROM STDIN');
  assert.equal((await session.next())?.type, 'G');
  for (let i = 0; i < 5000; i++) session.write(encodeCopyData(Buffer.from(line(i))));
  session.write(message('c'));
  assert.match(describeHeard((await session.next()) ?? assert.fail()), /^E ERROR 23505 /);
  assert.equal(describeHeard((await session.next()) ?? assert.fail()), 'Z I');
  assert.equal(await server.sql('SELECT count(*) FROM line'), '20000');
});

test('notifications come from the process id that the notifier knows as its own', async (t) => {
  const { open } = await doorToServer(t);
  const listener = await open('listener');
  const notifier = await open('notifier');
  await listener.query('LISTEN news');
  const heard = once(listener, 'notification');
  await notifier.query("NOTIFY news, 'here'");
  const [{ channel, payload, processId }] = (await heard) as [Record<string, unknown>];
  const { rows } = await notifier.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  assert.deepEqual([channel, payload, processId], ['news', 'here', rows[0]?.pid]);
  assert.equal(keyOf(notifier).processID, rows[0]?.pid);
});

test('a result of 100 MB that is read slowly waits at the server, not here', async (t) => {
  const { port, server } = await doorToServer(t);
  const socket = connect({ host: '127.0.0.1', port });
  await once(socket, 'connect');
  let bytes = 0;
  let pauseAt = Number.POSITIVE_INFINITY;
  let isReady = false;
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    isReady = chunk.subarray(-6).toString('latin1') === 'Z\0\0\0\x05I';
    if (bytes >= pauseAt) socket.pause();
  });
  socket.write(encodeStartup(SQL));
  await waitFor('the greeting', () => isReady);

  // Nothing of it is read, then some and some more: each time the server waits.
  const before = usedBytes();
  bytes = 0;
  socket.write(encodeQuery(`SELECT repeat('x', ${MEGABYTE}) AS x FROM generate_series(1, 100)`));
  const waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'ClientWrite'";
  for (const megabytes of [0, 10, 40]) {
    pauseAt = megabytes * MEGABYTE;
    socket.resume();
    await waitFor(`${megabytes} MB`, () => socket.isPaused());
    await server.waitForSql(waiting, '1');
    const heldBytes = usedBytes() - before;
    assert.ok(heldBytes < 30 * MEGABYTE, `${heldBytes} bytes are held`);
    assert.ok(bytes < pauseAt + MEGABYTE, `${bytes} bytes have come`);
  }

  pauseAt = Number.POSITIVE_INFINITY;
  socket.resume();
  await waitFor('the end', () => isReady && bytes > 100 * MEGABYTE);
  // RowDescription, a DataRow for each, CommandComplete, ReadyForQuery.
  assert.equal(bytes, 27 + 100 * (11 + MEGABYTE) + 16 + 6);
  socket.destroy();
});

test('a client that vanishes ends its session, and a server that ends it says why', async (t) => {
  const { tree, open, port, server } = await doorToServer(t);
  const sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'raw'";
  const vanishing = await RawSession.start(tree, port, { ...SQL, application_name: 'raw' });
  await vanishing.answer('BEGIN');
  await server.waitForSql(sessions, '1');
  await vanishing.end();
  await server.waitForSql(sessions, '0');

  // The last query of a client that says no more is answered.
  const last = await RawSession.start(tree, port, { ...SQL, application_name: 'raw' });
  last.query("SELECT pg_sleep(0.3), 'done'");
  last.write(encodeTerminate());
  last.finish();
  assert.deepEqual((await last.until()).map(describeHeard).slice(1), [
    'D |done',
    'C SELECT 1',
    'Z I',
  ]);

  // Busy or idle, each hears the reason.
  const clients = await Promise.all(Array.from({ length: 10 }, (_, i) => open(`victim ${i}`)));
  const reasons = clients.map(
    (client, i) =>
      new Promise<string>((resolve) => {
        // Said in the middle of a query it is the query's error, else the connection's.
        const hear = (error: Error): void => {
          const { code } = error as Error & { code?: string };
          if (code !== undefined) resolve(code);
        };
        const stayBusy = async (): Promise<never> => {
          for (;;) await client.query('SELECT 1');
        };
        client.on('error', hear);
        client.once('end', () => setImmediate(() => resolve('nothing')));
        if (i > 0) stayBusy().catch(hear);
      }),
  );
  await server.sql(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'victim'",
  );
  assert.deepEqual(new Set(await Promise.all(reasons)), new Set(['57P01']));
});

test('while the server is stopped its clients are told so, and come again later', async (t) => {
  const { tree, port, server } = await doorToServer(t);
  const first = async (): Promise<string> => {
    const session = await RawSession.open(tree, port);
    session.write(encodeStartup(SQL));
    const heard = describeHeard((await session.next()) ?? assert.fail());
    await session.end();
    return heard;
  };
  const idle = await RawSession.start(tree, port, SQL);
  await server.stop();
  assert.match((await idle.until()).map(describeHeard).join(), /^E FATAL 57P01 /);
  assert.equal(await first(), 'E FATAL 57P03 the database system is starting up');
  await server.start();
  assert.equal(await first(), 'R');
});

test('logical replication goes to the server, on a connection to a database', async (t) => {
  const { tree, port, server } = await doorToServer(t, { settings: { wal_level: 'logical' } });
  await server.sql('CREATE TABLE fruit (name text PRIMARY KEY)');
  await server.sql('CREATE PUBLICATION p FOR TABLE fruit');
  const session = await RawSession.start(tree, port, { ...SQL, replication: 'database' });
  const created = await session.answer('CREATE_REPLICATION_SLOT s TEMPORARY LOGICAL pgoutput');
  assert.deepEqual(created.slice(2), ['C CREATE_REPLICATION_SLOT', 'Z I']);
  assert.match((await session.answer('SELECT current_database()')).join(), /D postgres/);
  const options = "proto_version '1', publication_names 'p'";
  session.query(`START_REPLICATION SLOT s LOGICAL 0/0 (${options})`);
  assert.equal((await session.next())?.type, 'W');
  await server.sql("INSERT INTO fruit VALUES ('quince')");
  await waitFor('the row', async () => (await session.next())?.body.includes('quince'));
  await session.end();
});

test('rules refuse SQL by database, user and address', async (t) => {
  const hba = [
    'host postgres eve 127.0.0.1/32 reject',
    'host postgres all 127.0.0.1/32 trust',
    'host other all 192.0.2.0/24 trust',
  ].join('\n');
  const { tree, port, server } = await doorToServer(t, { hba });
  await server.sql('CREATE ROLE eve LOGIN');
  await server.sql('CREATE DATABASE other');
  const host = 'host "127.0.0.1", user';
  for (const [asked, heard] of [
    [{}, 'R'],
    [{ replication: 'database' }, 'R'],
    [
      { user: 'eve' },
      `E FATAL 28000 walcade_hba.conf rejects connection for ${host} "eve", ` +
        'database "postgres", no encryption',
    ],
    [
      { database: 'other' },
      `E FATAL 28000 no walcade_hba.conf entry for ${host} "postgres", ` +
        'database "other", no encryption',
    ],
    [
      { database: 'template1', replication: 'database' },
      `E FATAL 28000 no walcade_hba.conf entry for ${host} "postgres", ` +
        'database "template1", no encryption',
    ],
  ] as const) {
    const session = await RawSession.open(tree, port);
    session.write(encodeStartup({ ...SQL, ...asked }));
    assert.equal(describeHeard((await session.next()) ?? assert.fail()), heard);
    await session.end();
  }
});

test("PostgreSQL's own tools work through the door", async (t) => {
  const tools = await findTools(['psql', 'pg_dump']);
  if (tools === undefined) {
    t.diagnostic('this machine has no psql and pg_dump: only the tests above have shown SQL');
    return;
  }
  const { port, server } = await doorToServer(t, { binaries: tools.binaries });
  await server.sql(
    'CREATE TABLE number AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i',
  );
  const at = ['-h', '127.0.0.1', '-p', String(port), '-U', 'postgres'];
  const dumped = await tools.run('pg_dump', [...at, '--no-owner', 'postgres']);
  assert.match(dumped.stdout, /^49999\t/m);
  const counted = await tools.run('psql', [
    ...at,
    '-Atc',
    'SELECT count(*) FROM number',
    'postgres',
  ]);
  assert.equal(counted.stdout, '50000\n');
});

interface Door {
  tree: TestDirectory;
  /** The server behind the door; what it is asked here does not go through the door. */
  server: PostgresCluster;
  /** Where the door is. */
  port: number;
  /** A client through the door. */
  open: (name: string) => Promise<Client>;
}

async function doorToServer(
  t: TestContext,
  {
    hba,
    settings = {},
    binaries,
  }: { hba?: string; settings?: Settings; binaries?: PostgresCluster['binaries'] } = {},
): Promise<Door> {
  const tree = await TestDirectory.create(t);
  const server = await PostgresCluster.init(tree, { name: 'server', settings, binaries });
  await server.start();
  const { port } = await SqlDoor.open(tree, server, hba === undefined ? {} : { hba });
  const open = async (name: string): Promise<Client> => {
    const config = { host: '127.0.0.1', port, user: 'postgres', database: 'postgres' };
    const client = new Client({ ...config, application_name: name } satisfies ClientConfig);
    await client.connect();
    client.on('error', () => {});
    tree.add({ name, end: () => client.end().catch(() => {}) });
    return client;
  };
  return { tree, server, port, open };
}

/** What a client of node-postgres has been given to cancel with; it is not among its types. */
function keyOf(client: Client): { processID: number; secretKey: number; port: number } {
  return client as unknown as { processID: number; secretKey: number; port: number };
}

async function cancel(client: Client): Promise<void> {
  const { processID, secretKey, port } = keyOf(client);
  const key = Buffer.alloc(4);
  key.writeInt32BE(secretKey);
  const socket = connect({ host: '127.0.0.1', port });
  socket.write(encodeCancelRequest(processID, key));
  socket.resume();
  await once(socket, 'close');
}

/** The memory that this process uses, buffers included. */
function usedBytes(): number {
  globalThis.gc?.();
  const { heapUsed, arrayBuffers } = process.memoryUsage();
  return heapUsed + arrayBuffers;
}
