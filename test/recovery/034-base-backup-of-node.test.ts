/**
 * Base backups of nodes with an attached server: it is what has the data pages, so that a backup
 * costs the servers above nothing; while it is down, they give it.
 */
import assert from 'node:assert/strict';
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { backUp } from '../harness/base-backup.ts';
import { numberCluster, numberClusterWithNode } from '../harness/number-cluster.ts';
import { testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('the attached server gives the base backups of its node and of a relay below', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: node.conninfo });
  await relay.start();
  for (const from of [node, relay]) {
    const before = await backupsOf(primary);
    const own = await backupsOf(node);
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    await node.waitForCatchup(primary);
    const directory = join(tree.path, `of-${from.name}`);
    const backup = await backUp(directory, { port: from.port });
    assert.ok(backup.start < backup.end);
    assert.equal(await backupsOf(primary), before);
    assert.equal(await backupsOf(node), own + 1);
    await follows(tree, { name: `below-${from.name}`, directory, from, primary });
  }
});

test('a node two deep is made of the one above it, and gives backups of its own', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const before = await backupsOf(primary);
  const lower = await WalcadeNode.init(tree, {
    name: 'lower',
    upstream: node.conninfo,
    withPostgres: true,
  });
  await lower.start();
  await lower.waitForCatchup(primary);
  assert.equal(await lower.dump(), await primary.dump());
  assert.equal(await backupsOf(node), 1);
  const directory = join(tree.path, 'of-lower');
  await backUp(directory, { port: lower.port });
  assert.equal(await backupsOf(node), 1);
  assert.equal(await backupsOf(lower), 1);
  assert.equal(await backupsOf(primary), before);
  await follows(tree, { name: 'below', directory, from: lower, primary });
});

test('while the attached server is down the upstream gives the backup', async (t) => {
  const { tree, primary, node } = await numberClusterWithNode(t);
  const before = await backupsOf(primary);
  await keepServerDown(node);
  const directory = join(tree.path, 'of-down');
  await backUp(directory, { port: node.port });
  assert.equal(await backupsOf(primary), before + 1);
  await follows(tree, { name: 'below', directory, from: node, primary });
});

test('pg_basebackup takes verified backups of a node, by its server or upstream', async (t) => {
  const tools = await findTools(['pg_basebackup', 'pg_verifybackup', 'pg_waldump']);
  if (tools?.major !== testedMajor()) {
    t.diagnostic('this machine has no pg_basebackup of the tested major: nothing was shown');
    return;
  }
  const { tree, primary, node } = await numberClusterWithNode(t);
  const before = await backupsOf(primary);
  for (const state of ['ready', 'down'] as const) {
    if (state === 'down') await keepServerDown(node);
    for (const method of ['stream', 'fetch']) {
      await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
      await node.waitForWal(await primary.currentLsn());
      const name = `${state}-${method}`;
      const directory = join(tree.path, name);
      const options = ['-D', directory, '-X', method, '-c', 'fast', '--no-sync'];
      await tools.run('pg_basebackup', ['-d', node.conninfo, ...options]);
      const { stdout } = await tools.run('pg_verifybackup', [directory]);
      assert.match(stdout, /backup successfully verified/);
      await waitFor('its slot to be gone', async () => (await node.status()).slots.length === 0);
      await follows(tree, { name: `below-${name}`, directory, from: node, primary });
    }
    assert.equal(await backupsOf(primary), before + (state === 'down' ? 2 : 0));
  }
});

/** How a server that is no primary on timeline 1 comes to be: it gives what a node is made from. */
const SOURCES = {
  'a plain standby': async (tree: TestDirectory, primary: PostgresCluster) => {
    const standby = await PostgresCluster.standby(tree, {
      name: 'standby',
      from: await primary.backup(join(tree.path, 'backup')),
      upstreamConninfo: primary.conninfo,
    });
    await standby.start();
    await standby.waitForCatchup(primary);
    return { from: standby, writer: primary };
  },
  'a standby that was promoted': async (tree: TestDirectory, primary: PostgresCluster) => {
    const { from } = await SOURCES['a plain standby'](tree, primary);
    await from.promote();
    return { from, writer: from };
  },
};

for (const [what, make] of Object.entries(SOURCES)) {
  test(`a node is made from ${what} and follows it`, async (t) => {
    const { tree, primary } = await numberCluster(t);
    const { from, writer } = await make(tree, primary);
    const options = { name: 'node', upstream: from.conninfo, withPostgres: true };
    const node = await WalcadeNode.init(tree, options);
    await node.start();
    await writer.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    await node.waitForCatchup(writer);
    assert.equal(await node.dump(), await writer.dump());
    assert.equal(await from.sql('SELECT application_name FROM pg_stat_replication'), 'node');
  });
}

/** A standby that is started on the backup streams from the node and gets what the primary has. */
async function follows(
  tree: TestDirectory,
  {
    name,
    directory,
    from,
    primary,
  }: { name: string; directory: string; from: WalcadeNode; primary: PostgresCluster },
): Promise<void> {
  await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  const standby = await PostgresCluster.standby(tree, {
    name,
    from: directory,
    upstreamConninfo: from.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  assert.deepEqual(
    (await from.status()).downstreams
      .map(({ applicationName }) => applicationName)
      .filter((downstream) => downstream === name),
    [name],
  );
  await standby.stop();
}

/** How many backups a server, or the one that is attached to a node, has given. */
async function backupsOf({ log }: PostgresCluster | WalcadeNode): Promise<number> {
  return (await log.text()).match(/received replication command: BASE_BACKUP/g)?.length ?? 0;
}

/** Stops the attached server in such a way that it cannot start again. */
async function keepServerDown(node: WalcadeNode): Promise<void> {
  node.expectLog(/attached (?:PostgreSQL )?server|could not|configuration file|syntax error/);
  await appendFile(join(node.directory, 'data/postgresql.auto.conf'), 'no_such_parameter = 1\n');
  const { server } = await node.status();
  process.kill(server?.pid ?? 0, 'SIGINT');
  await waitFor('the attached server to be down', async () => {
    const state = (await node.status()).server?.state;
    return state !== 'ready';
  });
}
