/**
 * Streaming through relays: rows, positions and identities, as PostgreSQL's own servers see them
 * above and below a node.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalClient } from '../harness/wal-client.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('a row travels to two standbys of a relay, and by a second relay to a third', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE account (id int PRIMARY KEY, owner text)');

  // The relay's slot reserves WAL from before the backup, so its standbys find all they need.
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await relay.start();
  const lower = await WalcadeNode.init(tree, { name: 'lower', upstream: relay.conninfo });
  await lower.start();
  const backup = await primary.backup(join(tree.path, 'backup'));
  const standbys = await Promise.all(
    ['standby1', 'standby2', 'standby3'].map((name, index) =>
      PostgresCluster.standby(tree, {
        name,
        from: backup,
        upstreamConninfo: (index < 2 ? relay : lower).conninfo,
      }),
    ),
  );
  await Promise.all(standbys.map((standby) => standby.start()));

  // A row travels to all of them, and so does a change of it.
  await primary.sql(`INSERT INTO account VALUES (1, 'depesz')`);
  for (const standby of standbys) {
    await standby.waitForSql('SELECT owner FROM account WHERE id = 1', 'depesz');
  }
  await primary.sql(`UPDATE account SET owner = 'another'`);
  for (const standby of standbys) {
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
  }

  // The relay has asked the primary for nothing that would be an error in its log.
  assert.doesNotMatch(await primary.log.text(), /ERROR/);

  // The primary sees the relay alone, with what it has made durable; a relay replays nothing.
  assert.equal(
    await primary.sql(
      'SELECT application_name, state, flush_lsn > sent_lsn, replay_lsn FROM pg_stat_replication',
    ),
    'relay|streaming|f|',
  );
  await primary.waitForSql(
    `SELECT flush_lsn = pg_current_wal_flush_lsn() FROM pg_stat_replication`,
    't',
  );

  // IDENTIFY_SYSTEM is live on both relays: it is the primary's identity, and moves with its WAL.
  const identifier = await primary.sql('SELECT system_identifier FROM pg_control_system()');
  for (const node of [relay, lower]) {
    const client = await WalClient.connect(tree, node.conninfo);
    const before = parseLsn(await primary.sql('SELECT pg_current_wal_flush_lsn()'));
    await primary.sql('CHECKPOINT');
    await waitFor(`${node.name} to identify itself with a later position`, async () => {
      const [[systemId, timeline, position, database] = []] = await client.query('IDENTIFY_SYSTEM');
      assert.deepEqual([systemId, timeline, database], [identifier, '1', null]);
      return parseLsn(position ?? '') > before;
    });
    await client.end();
  }

  // Status shows each downstream, and in the end every position is the primary's.
  for (const [node, names] of [
    [relay, ['lower', 'standby1', 'standby2']],
    [lower, ['standby3']],
  ] as const) {
    let seen = '';
    await waitFor(`${node.name} to show its downstreams at the primary's position`, async () => {
      const end = await primary.sql('SELECT pg_current_wal_flush_lsn()');
      const { downstreams, positions, upstream } = await node.status();
      seen = JSON.stringify({ downstreams, positions, end });
      assert.equal(upstream.state, 'streaming');
      assert.deepEqual(downstreams.map((d) => d.applicationName).sort(), [...names]);
      return (
        Object.values({ ...positions, oldest: end }).every((position) => position === end) &&
        downstreams.every(
          (d) =>
            d.state === 'streaming' &&
            [d.sent, d.write, d.flush].every((position) => position === end) &&
            d.replay === (d.applicationName === 'lower' ? null : end) &&
            d.lagBytes === 0,
        )
      );
    }).catch((error: Error) => {
      throw new Error(`${error.message}; ${seen}`, { cause: error });
    });
  }
});

test('a primary on timeline 3 works above relays, with the histories of 2 and 3', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  const ancient = await primary.backup(join(tree.path, 'ancient'));
  await primary.stop();

  // Two promotions, each after a little WAL on its timeline.
  for (const timeline of [2, 3]) {
    await primary.becomeStandby();
    await primary.start();
    await primary.promote();
    await primary.sql(`INSERT INTO number VALUES (${timeline})`);
    await primary.sql('CHECKPOINT');
    if (timeline === 2) await primary.stop();
  }
  assert.equal(
    await primary.sql('SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)'),
    '00000003',
  );

  // Two relays, one below the other; a standby of a backup from now, and one from timeline 1.
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await relay.start();
  const lower = await WalcadeNode.init(tree, { name: 'lower', upstream: relay.conninfo });
  await lower.start();
  const backup = await primary.backup(join(tree.path, 'backup'));
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: lower.conninfo,
  });
  const late = await PostgresCluster.standby(tree, {
    name: 'late',
    from: ancient,
    upstreamConninfo: relay.conninfo,
  });
  await Promise.all([standby.start(), late.start()]);
  await primary.sql('INSERT INTO number SELECT generate_series(10, 1000)');
  for (const each of [standby, late]) {
    await each.waitForCatchup(primary);
    assert.equal(await each.dump(), await primary.dump());
  }

  // Both relays have both history files, byte for byte, on disk and over the wire.
  for (const node of [relay, lower]) {
    assert.equal((await node.status()).timeline, 3);
    const client = await WalClient.connect(tree, node.conninfo);
    assert.equal((await client.query('IDENTIFY_SYSTEM'))[0]?.[1], '3');
    for (const timeline of [2, 3]) {
      const name = `0000000${timeline}.history`;
      const original = await readFile(join(primary.dataDirectory, 'pg_wal', name));
      assert.deepEqual(await readFile(join(node.directory, 'pg_wal', name)), original);
      assert.deepEqual(await client.query(`TIMELINE_HISTORY ${timeline}`), [
        [name, original.toString()],
      ]);
    }
    await client.end();
  }
});

test('a relay works below a standby, and feeds another standby', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  const backup = await primary.backup(join(tree.path, 'backup'));
  const upper = await PostgresCluster.standby(tree, {
    name: 'upper',
    from: backup,
    upstreamConninfo: primary.conninfo,
  });
  await upper.start();
  await upper.waitForCatchup(primary);

  // The relay's slot is on the standby, and reserves WAL from its last restartpoint.
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: upper.conninfo });
  await relay.start();
  await upper.waitForSql('SELECT slot_name, active FROM pg_replication_slots', 'relay|t');
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: relay.conninfo,
  });
  await standby.start();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 10000)');
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());

  // What the standby above confirms is no more than what it has.
  const end = await primary.currentLsn();
  await relay.waitForWal(end);
  const { walEnd } = (await relay.status()).upstream;
  assert.ok(parseLsn(walEnd ?? '') >= end, `${walEnd} is not before ${formatLsn(end)}`);
});
