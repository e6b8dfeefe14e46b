/**
 * The harness itself: real servers, made, connected, broken and compared as the other recovery
 * tests do it. If one of these fails, no other result means anything.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('rows travel from a primary to a standby made from its backup', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE account (id int PRIMARY KEY, owner text)');

  // A standby starts from a base backup and streams what came after it.
  const backup = await primary.backup(join(tree.path, 'backup'));
  await primary.sql(`INSERT INTO account SELECT i, 'owner ' || i FROM generate_series(1, 1000) i`);
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  assert.equal(await standby.sql('SELECT count(*), max(id) FROM account'), '1000|1000');
  assert.equal(await standby.dump(), await primary.dump());
  assert.equal(
    await primary.sql('SELECT application_name, state FROM pg_stat_replication'),
    'standby|streaming',
  );
  assert.equal(typeof (await standby.walReceiverPid()), 'number');

  // A different content makes a different dump.
  const before = await primary.dump();
  await primary.sql(`UPDATE account SET owner = 'another' WHERE id = 7`);
  assert.notEqual(await primary.dump(), before);

  // A crash of the standby loses nothing, and its log says what happened after the mark.
  const mark = await standby.log.mark();
  await standby.kill9();
  await standby.start();
  await standby.waitForCatchup(primary);
  assert.match(await standby.log.since(mark), /database system was interrupted while in recovery/);

  // Promotion ends recovery; the standby takes writes of its own.
  await primary.stop();
  await standby.promote();
  await standby.sql(`INSERT INTO account VALUES (2000, 'after the promotion')`);
  assert.equal(await standby.query('postgres', 'SELECT max(id) FROM account'), '2000');
});

test('a standby lives through a network that chops, freezes, resets and dies', async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  const network = await FaultyNetwork.between(tree, primary.port, { pieces: 'random' });
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: network.conninfo,
    settings: { wal_receiver_timeout: '2s' },
  });
  await standby.start();
  await primary.sql('INSERT INTO number VALUES (1)');
  await standby.waitForCatchup(primary);

  // Chopped, slow and late bytes arrive all the same; few of them, as each wakes the standby.
  network.setFaults({ pieces: 'single-bytes' });
  await primary.sql('INSERT INTO number VALUES (2)');
  await standby.waitForCatchup(primary);
  network.setFaults({ pieces: 'whole', delayMs: 50, bytesPerSecond: 500_000 });
  await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  await standby.waitForCatchup(primary);
  network.setFaults({ delayMs: 0, bytesPerSecond: 0 });

  // While the network is frozen nothing arrives; then all of it.
  network.pause();
  await primary.sql('CREATE TABLE frozen ()');
  const frozenAt = await primary.currentLsn();
  assert.ok((await standby.replayLsn()) < frozenAt);
  network.resume();
  await standby.waitForReplay(frozenAt);

  // After a reset the standby connects anew.
  const connections = network.connectionCount;
  network.resetAll();
  await waitFor('a new connection', () => network.connectionCount > connections);
  await primary.sql('INSERT INTO number VALUES (0)');
  await standby.waitForCatchup(primary);

  // A connection cut in silence ends by wal_receiver_timeout.
  const mark = await standby.log.mark();
  network.cutSilently();
  await standby.log.waitFor(/terminating walreceiver due to timeout/, { since: mark });
  network.mend();
  await primary.sql('INSERT INTO number VALUES (-1)');
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
});

test('a standby behind messages cut at random places finds broken records', async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  const network = await FaultyNetwork.between(tree, primary.port, { onCopyData: 'recut', seed: 7 });
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: network.conninfo,
  });
  await standby.start();

  // Records of all sizes, a commit each, until one was assembled from stale bytes.
  await primary.sql('CREATE TABLE payload (value text)');
  await waitFor('a record with a wrong checksum', async () => {
    await primary.sql(
      `DO $$ BEGIN
         FOR i IN 1..50 LOOP
           INSERT INTO payload VALUES (repeat(md5(random()::text), 1 + i));
           COMMIT;
           PERFORM pg_sleep(0.004);
         END LOOP;
       END $$`,
    );
    return /incorrect resource manager data checksum/.test(await standby.log.text());
  });

  // It starts over each time, so that with patience it gets everything.
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
});

test('a node runs as a process of its own, which the test can stop, kill and ask', async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  const node = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    args: ['--start-lsn', '0/2000000'],
  });
  await node.start();
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: node.conninfo,
  });
  await standby.start();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  await standby.waitForCatchup(primary);
  await node.waitForWal(await primary.currentLsn());
  assert.deepEqual(
    (await node.status()).downstreams.map(({ applicationName }) => applicationName),
    ['standby'],
  );

  // It comes back from a stop and from a crash, and goes on.
  assert.equal(await node.stop('fast'), 'exit status 0');
  await node.start();
  await node.kill9();
  assert.notEqual((await node.cli(['status', '-D', node.directory])).code, 0);
  await node.start();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
});

/** A running primary with a table `number`, and a base backup of it. */
async function primaryWithBackup(
  t: TestContext,
): Promise<{ tree: TestDirectory; primary: PostgresCluster; backup: string }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  return { tree, primary, backup: await primary.backup(join(tree.path, 'backup')) };
}
