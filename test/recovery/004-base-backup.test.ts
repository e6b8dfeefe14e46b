/**
 * Base backups through relays: by the program's own client everywhere, and by
 * stock pg_basebackup where the machine has one.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { backUp } from '../harness/base-backup.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('BASE_BACKUP through one relay, and through two, makes a standby', async (t) => {
  const { tree, primary, relay, lower } = await primaryAndRelays(t);
  for (const [name, node] of [
    ['standby1', relay],
    ['standby2', lower],
  ] as const) {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    const directory = join(tree.path, `backup-${name}`);
    const backup = await backUp(directory, { port: node.port });
    assert.ok(backup.start < backup.end);
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    const standby = await PostgresCluster.standby(tree, {
      name,
      from: directory,
      upstreamConninfo: node.conninfo,
    });
    await standby.start();
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    await standby.stop();
  }
});

test('pg_basebackup takes verified backups through two relays', async (t) => {
  const tools = await findTools(['pg_basebackup', 'pg_verifybackup', 'pg_waldump']);
  if (tools === undefined) {
    t.diagnostic('this machine has no pg_basebackup: only the test above has shown backups');
    return;
  }
  t.diagnostic(`with pg_basebackup of PostgreSQL ${tools.major}`);
  const { tree, primary, lower } = await primaryAndRelays(t, tools.binaries);
  for (const method of ['stream', 'fetch']) {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    const directory = join(tree.path, `backup-${method}`);
    const options = ['-D', directory, '-X', method, '-c', 'fast', '--no-sync'];
    await tools.run('pg_basebackup', ['-d', lower.conninfo, ...options]);

    // The backup is whole, its WAL included, and leaves no slot behind.
    const { stdout } = await tools.run('pg_verifybackup', [directory]);
    assert.match(stdout, /backup successfully verified/);
    await waitFor('its slot to be gone', async () => (await lower.status()).slots.length === 0);

    // A standby made of it follows the relay.
    await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
    const standby = await PostgresCluster.standby(tree, {
      name: `standby-${method}`,
      from: directory,
      upstreamConninfo: lower.conninfo,
      binaries: tools.binaries,
    });
    await standby.start();
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    await standby.stop();
  }
});

/** A primary with a table `number`, a relay below it, and a second relay below that. */
async function primaryAndRelays(
  t: TestContext,
  binaries?: PostgresCluster['binaries'],
): Promise<{
  tree: TestDirectory;
  primary: PostgresCluster;
  relay: WalcadeNode;
  lower: WalcadeNode;
}> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary', binaries });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await relay.start();
  const lower = await WalcadeNode.init(tree, { name: 'lower', upstream: relay.conninfo });
  await lower.start();
  return { tree, primary, relay, lower };
}
