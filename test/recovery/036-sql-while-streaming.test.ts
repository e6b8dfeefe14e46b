/** SQL and WAL at once through the one port of a node: neither holds up the other. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { test } from 'node:test';
import { Client } from 'pg';
import { encodeQuery } from '../../src/protocol/frontend-messages.ts';
import { encodeCancelRequest, encodeStartup } from '../../src/protocol/startup.ts';
import { assertSameRows, attachedCluster, standbyBehind } from '../harness/attached-cluster.ts';
import { Load } from '../harness/relayed-cluster.ts';
import { waitFor } from '../harness/wait.ts';

const SESSIONS = 50;
const MEGABYTE = 1_000_000;

test('fifty sessions, a cancel and a slow reader of 100 MB do not hold up WAL', async (t) => {
  const settings = { max_connections: SESSIONS + 30 };
  const cluster = await attachedCluster(t, { primarySettings: settings });
  const { primary, node } = cluster;
  const standby = await standbyBehind(cluster, settings);
  const load = new Load(primary, { slot: 'node' });
  const { port } = node;

  // Somebody asks for 100 MB and reads none of it.
  const slow = connect({ host: '127.0.0.1', port });
  t.after(() => slow.destroy());
  await once(slow, 'connect');
  let bytes = 0;
  slow.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  slow.write(encodeStartup({ user: 'postgres', database: 'postgres' }));
  await waitFor('the greeting', () => bytes > 0);
  slow.pause();
  slow.write(encodeQuery(`SELECT repeat('x', ${MEGABYTE}) FROM generate_series(1, 100)`));

  // Fifty others ask at once; one of them is canceled, the others get what they asked for.
  const clients = Array.from(
    { length: SESSIONS },
    () => new Client({ host: '127.0.0.1', port, user: 'postgres', database: 'postgres' }),
  );
  // A test that fails ends them with the node.
  for (const client of clients) client.on('error', () => {});
  await Promise.all(clients.map((client) => client.connect()));
  const sleeping = clients.map((client, i) =>
    client.query<{ i: number }>('SELECT $1::int AS i FROM pg_sleep(5)', [i]).then(
      ({ rows }) => rows[0]?.i,
      (error: { code: string }) => error.code,
    ),
  );
  const asleep = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
  await node.waitForSql(asleep, String(SESSIONS));
  const { processID, secretKey } = clients[0] as unknown as Record<
    'processID' | 'secretKey',
    number
  >;
  const key = Buffer.alloc(4);
  key.writeInt32BE(secretKey);
  const canceler = connect({ host: '127.0.0.1', port });
  canceler.write(encodeCancelRequest(processID, key));
  await once(canceler.resume(), 'close');
  const expected = clients.map((_, i) => (i === 0 ? '57014' : i));
  assert.deepEqual(await Promise.all(sleeping), expected);

  await Promise.all(clients.map((client) => client.end()));

  // WAL has gone on all the while, and what was slow comes whole.
  await load.stop();
  await standby.waitForCatchup(primary);
  await node.waitForCatchup(primary);
  assert.ok(bytes < 10 * MEGABYTE, `${bytes} bytes have come`);
  slow.resume();
  await waitFor('the rest of 100 MB', () => bytes > 100 * MEGABYTE);
  await assertSameRows(primary, [node]);
});
