/**
 * A chain of nodes with hot standbys: each made from the one before, each replaying what the one
 * before gives it, and what the primary is told of the first of them.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { numberCluster } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const CHAIN_LENGTH = 5;

test('each of five nodes in a chain is made from the one before, and follows it', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const chain = await startChain(tree, primary, CHAIN_LENGTH);
  const [first, second, middle, fourth, last] = chain as [WalcadeNode, ...WalcadeNode[]];
  assert.ok(second && middle && fourth && last);

  // A row goes through all, and each has one downstream, but the last.
  await primary.sql('INSERT INTO number VALUES (1)');
  for (const node of chain) await node.waitForSql('SELECT count(*) FROM number', '1');
  for (const [index, node] of chain.entries()) {
    const { downstreams } = await node.status();
    const below = chain[index + 1];
    assert.deepEqual(
      downstreams.map(({ applicationName, slot }) => [applicationName, slot]),
      below === undefined ? [] : [[below.name, below.name]],
    );
  }

  // The primary gave one base backup, each node one to the next.
  for (const server of [primary, first, second, middle, fourth]) {
    const backups = /received replication command: BASE_BACKUP/g;
    assert.equal((await server.log.text()).match(backups)?.length, 1, server.name);
  }

  // Without the one in the middle those below answer as before, and their servers go on.
  const pids = [await serverPid(fourth), await serverPid(last)];
  await middle.stop();
  await primary.sql('INSERT INTO number SELECT generate_series(2, 1000)');
  await second.waitForCatchup(primary);
  assert.equal(await last.sql('SELECT count(*) FROM number'), '1');

  // It is back, and all below it has what came meanwhile, and what comes.
  await middle.start();
  await primary.sql('DELETE FROM number WHERE value % 7 = 0');
  for (const node of chain) await node.waitForCatchup(primary);
  const wanted = await primary.dump();
  for (const node of chain) assert.equal(await node.dump(), wanted);
  assert.deepEqual([await serverPid(fourth), await serverPid(last)], pids);
});

test('a commit that is to be applied on a node waits for its attached server', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const [node, below] = await startChain(tree, primary, 2);
  assert.ok(node && below);
  await primary.configure({
    synchronous_standby_names: node.name,
    synchronous_commit: 'remote_apply',
  });
  primary.reload();
  await primary.waitForSql('SELECT sync_state FROM pg_stat_replication', 'sync');

  // The row is to be seen on the node when the commit returns.
  for (const value of [1, 2, 3]) {
    await primary.sql(`INSERT INTO number VALUES (${value})`);
    assert.equal(await node.sql('SELECT max(value) FROM number'), `${value}`);
  }

  // Replay is paused: the commit waits, although the node and the one below have it on disk.
  await node.sql('SELECT pg_wal_replay_pause()');
  let hasReturned = false;
  const commit = primary.sql('INSERT INTO number VALUES (4)').then(() => (hasReturned = true));
  await primary.waitForSql(
    `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`,
    '1',
  );
  await primary.waitForSql(
    `SELECT flush_lsn = pg_current_wal_lsn(), replay_lsn < flush_lsn FROM pg_stat_replication`,
    't|t',
  );
  await below.waitForSql('SELECT max(value) FROM number', '4');
  assert.equal(hasReturned, false);
  assert.equal(await node.sql('SELECT max(value) FROM number'), '3');

  // Resumed, it returns.
  await node.sql('SELECT pg_wal_replay_resume()');
  await commit;
  assert.equal(await node.sql('SELECT max(value) FROM number'), '4');
});

/** Nodes `node1` to `node<length>`, each below the one before it, all running. */
async function startChain(
  tree: TestDirectory,
  primary: PostgresCluster,
  length: number,
): Promise<WalcadeNode[]> {
  const chain: WalcadeNode[] = [];
  for (let depth = 1; depth <= length; depth += 1) {
    const node = await WalcadeNode.init(tree, {
      name: `node${depth}`,
      upstream: (chain.at(-1) ?? primary).conninfo,
      withPostgres: true,
      settings: { wal_retrieve_retry_interval: '100ms' },
    });
    await node.start();
    chain.push(node);
  }
  return chain;
}

async function serverPid(node: WalcadeNode): Promise<number> {
  return waitFor(`the server of ${node.name}`, async () => (await node.status()).server?.pid);
}
