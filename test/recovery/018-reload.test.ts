/** A reload that names another upstream: the node changes over, its downstreams notice nothing. */
import assert from 'node:assert/strict';
import { appendFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

// A healthy stream went on as it was, and the reload said that all was well.
test('a reload with another primary_conninfo moves a node, and nothing below it', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE i (x int4)');
  const backup = await primary.backup(join(tree.path, 'backup'));
  const upper = await PostgresCluster.standby(tree, {
    name: 'upper',
    from: backup,
    upstreamConninfo: primary.conninfo,
  });
  await upper.start();
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    args: ['--no-slot'],
  });
  await relay.start();
  const lower = await PostgresCluster.standby(tree, {
    name: 'lower',
    from: backup,
    upstreamConninfo: relay.conninfo,
  });
  await lower.start();
  await lower.waitForCatchup(primary);
  const receiver = await lower.walReceiverPid();

  // The standby becomes the relay's upstream while the stream from the primary is healthy.
  await relay.configure({ primary_conninfo: upper.conninfo });
  const { code, stdout } = await relay.cli(['reload', '-D', relay.directory]);
  assert.equal(code, 0, stdout);
  await waitFor('the relay to stream from the standby', async () => {
    const { state, address } = (await relay.status()).upstream;
    return state === 'streaming' && address?.endsWith(`:${upper.port}`);
  });
  assert.match(await relay.log.text(), /parameter "primary_conninfo" has changed/);

  // A row comes by the new way, over the connection that the standby below has had all along.
  await primary.sql('INSERT INTO i VALUES (123)');
  await lower.waitForSql('SELECT x FROM i', '123');
  assert.equal(await lower.walReceiverPid(), receiver);
});

test('a reload is one of the attached server too', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  const options = { name: 'node', upstream: primary.conninfo, withPostgres: true };
  const node = await WalcadeNode.init(tree, options);
  await node.start();
  assert.notEqual(await node.sql('SHOW work_mem'), '7MB');

  // A setting that is none of the node's is changed where PostgreSQL has it.
  await appendFile(join(node.directory, 'data', 'postgresql.conf'), "work_mem = '7MB'\n");
  const { code, stdout } = await node.cli(['reload', '-D', node.directory]);
  assert.equal(code, 0, stdout);
  await node.waitForSql('SHOW work_mem', '7MB');
});
