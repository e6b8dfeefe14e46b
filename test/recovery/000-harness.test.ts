/**
 * The harness itself: real servers, made, connected, broken and compared as the other recovery
 * tests do it. If one of these fails, no other result means anything.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';

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
