/**
 * What a primary's configuration files have for the primary itself does no harm to the node that
 * is made from it, and what a hot standby must have of them it has.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { appendFile, chown, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { postgresUser, testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster, type Settings } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

/** What a standby must not have lower than its primary. */
const LIMITS = {
  max_connections: 77,
  max_worker_processes: 11,
  max_wal_senders: 33,
  max_prepared_transactions: 5,
  max_locks_per_transaction: 99,
};

test("the primary's port, sockets, log, certificate and trigger do no harm", async (t) => {
  const { tree, primary } = await startPrimary(t);
  const trigger = join(tree.path, 'trigger');
  await writeFile(trigger, '');
  await appendFile(
    join(primary.dataDirectory, 'postgresql.conf'),
    [
      `port = ${primary.port}`,
      `listen_addresses = '*'`,
      `unix_socket_directories = '${primary.socketDirectory}, /nowhere'`,
      `unix_socket_group = 'nobody-has-this'`,
      'ssl = on',
      `ssl_cert_file = '/nowhere/server.crt'`,
      'logging_collector = on',
      `log_directory = '${join(tree.path, 'primary-log')}'`,
      `log_destination = 'csvlog'`,
      `log_line_prefix = '%m %r %u %d %p: '`,
      `external_pid_file = '/nowhere/postgres.pid'`,
      `hba_file = '/nowhere/pg_hba.conf'`,
      `ident_file = '/nowhere/pg_ident.conf'`,
      `archive_mode = on`,
      `archive_command = 'touch "${join(tree.path, 'archived')}"'`,
      `restore_command = 'touch "${join(tree.path, 'restored')}"; false'`,
      `primary_conninfo = 'host=127.0.0.1 port=1'`,
      `primary_slot_name = 'of_the_primary'`,
      `cluster_name = 'primary'`,
      `hot_standby = off`,
      `synchronous_standby_names = '*'`,
      ...(testedMajor() <= 15 ? [`promote_trigger_file = '${trigger}'`] : []),
      '',
    ].join('\n'),
  );
  const node = await makeNode(tree, primary);
  await expectFollows(node, primary);
  assert.equal(await node.sql('SHOW cluster_name'), 'node');
  assert.equal(await node.sql('SHOW listen_addresses'), '');
  for (const name of ['primary-log', 'archived', 'restored']) {
    assert.ok(!existsSync(join(tree.path, name)), name);
  }
});

test('includes are followed where the files came along, and are no obstacle else', async (t) => {
  const { tree, primary } = await startPrimary(t);
  const data = primary.dataDirectory;
  const user = await postgresUser();
  await mkdir(join(data, 'conf.d'));
  if (user !== undefined) await chown(join(data, 'conf.d'), user.uid, user.gid);
  const files = {
    'own.conf': `work_mem = '7MB'\ninclude 'deeper.conf'\n`,
    'deeper.conf': `include '/nowhere/deeper.conf'\nmaintenance_work_mem = '17MB'\n`,
    'conf.d/one.conf': `include = '../nowhere.conf'\nvacuum_cost_limit = 234\n`,
  };
  for (const [name, text] of Object.entries(files)) {
    await writeFile(join(data, name), text);
    if (user !== undefined) await chown(join(data, name), user.uid, user.gid);
  }
  await appendFile(
    join(data, 'postgresql.conf'),
    [
      `include 'own.conf'`,
      `include_dir = 'conf.d'`,
      `include_dir '/nowhere/conf.d'`,
      `INCLUDE '/nowhere/primary.conf' # only there`,
      `include_if_exists 'nowhere.conf'`,
      '',
    ].join('\n'),
  );
  const node = await makeNode(tree, primary);
  await expectFollows(node, primary);
  assert.equal(await node.sql('SHOW work_mem'), '7MB');
  assert.equal(await node.sql('SHOW maintenance_work_mem'), '17MB');
  assert.equal(await node.sql('SHOW vacuum_cost_limit'), '234');
});

test('a primary with its configuration elsewhere gives a node that starts', async (t) => {
  const { tree, primary } = await startPrimary(t, { isSplit: true, settings: LIMITS });
  assert.ok(!existsSync(join(primary.dataDirectory, 'postgresql.conf')));
  const node = await makeNode(tree, primary);
  await expectFollows(node, primary);
  await expectLimits(node, LIMITS);

  // A node that is made from it has them too.
  const below = await makeNode(tree, node, 'below');
  await expectFollows(below, primary);
  await expectLimits(below, LIMITS);
});

test('a server starts with what its WAL asks for, if the primary was given more', async (t) => {
  const { tree, primary } = await startPrimary(t);
  const node = await makeNode(tree, primary);

  // The primary has more than the node's files, which came with the base backup.
  node.expectLog(/hot standby is not possible because/);
  if (testedMajor() === 13) node.expectLog(/the attached PostgreSQL server has ended with exit/);
  await primary.configure(LIMITS);
  await primary.restart();

  // Up to 13 the server ends there, later ones pause replay; all are started anew.
  await waitForValue('the server', 'ready 1', async () => {
    const { server } = await node.status();
    return `${server?.state} ${server?.restarts}`;
  });
  await expectFollows(node, primary);
  await expectLimits(node, LIMITS);
});

async function expectFollows(node: WalcadeNode, primary: PostgresCluster): Promise<void> {
  await primary.sql('INSERT INTO number VALUES (100)');
  await node.waitForCatchup(primary);
  assert.equal(await node.dump(), await primary.dump());
  assert.equal(await node.sql('SELECT pg_is_in_recovery()'), 't');
}

async function expectLimits(node: WalcadeNode, wanted: Record<string, number>): Promise<void> {
  for (const [name, value] of Object.entries(wanted)) {
    const has = Number(await node.sql(`SHOW ${name}`));
    assert.ok(has >= value, `${name} is ${has}, at least ${value} are needed`);
  }
}

/** A running node, made by init from `upstream`. */
async function makeNode(
  tree: TestDirectory,
  upstream: { conninfo: string },
  name = 'node',
): Promise<WalcadeNode> {
  const node = await WalcadeNode.init(tree, {
    name,
    upstream: upstream.conninfo,
    withPostgres: true,
  });
  await node.start();
  return node;
}

/** A running primary with a table `number`; its configuration is elsewhere if it `isSplit`. */
async function startPrimary(
  t: TestContext,
  { isSplit = false, settings = {} }: { isSplit?: boolean; settings?: Settings } = {},
): Promise<{ tree: TestDirectory; primary: PostgresCluster }> {
  const tree = await TestDirectory.create(t);
  const split = isSplit ? { configDirectory: await tree.makeDirectory('primary-etc') } : {};
  const primary = await PostgresCluster.init(tree, { name: 'primary', settings, ...split });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  return { tree, primary };
}
