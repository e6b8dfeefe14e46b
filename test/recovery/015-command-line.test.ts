/**
 * The commands with real servers, as a person runs them: what each prints, what it changes, and
 * what it refuses.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { createLog } from '../../src/base/log.ts';
import { connectUpstream } from '../../src/node/upstream-connector.ts';
import { systemNetwork } from '../../src/protocol/network.ts';
import { showSetting } from '../../src/receiver/upstream-identity.ts';
import { assertDone, assertRefused, initNode, walcade } from '../harness/command-line.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { startPrimaryWithRoles } from '../harness/primary-with-roles.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('a node is started, asked, reloaded, restarted, stopped and removed', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const port = await tree.reservePort();
  const run = (...args: string[]) => walcade(args, tree.path);
  const made = assertDone(await initNode(tree, primary.conninfo, '--port', `${port}`));
  assert.match(made, /^slot +node, made there$/m);
  assert.match(made, /^ {4}walcade start -D node$/m);
  stopAtEnd(tree);
  assert.equal(await primary.sql('SELECT slot_name FROM pg_replication_slots'), 'node');

  // Stopped: status 3; nothing to stop or reload.
  const stopped = await run('status', '-D', 'node');
  assert.deepEqual(stopped, { status: 3, stdout: 'node in "node" is stopped\n', stderr: '' });
  assert.equal((await run('status', '-D', 'node', '--json')).stdout, '{"state":"stopped"}\n');
  for (const command of ['stop', 'reload']) {
    assertRefused(await run(command, '-D', 'node'), { message: /no node is running in "node"/ });
  }

  // Started, once; it says where it listens.
  assert.match(assertDone(await run('start', '-D', 'node')), new RegExp(`^ready on .*:${port}`));
  assertRefused(await run('start', '-D', 'node'), { message: /is already running \(PID \d+\)/ });
  const second = await run('run', '-D', 'node');
  assert.equal(second.status, 1);
  assert.match(second.stderr, /FATAL: {2}lock file "walcade\.pid" is held$/m);
  assert.match(
    second.stderr,
    /DETAIL: {2}A walcade process \(PID \d+\) is running in directory "\//,
  );

  // A node below it is a row of its status.
  const conninfo = `host=127.0.0.1 port=${port} user=postgres`;
  const below = await WalcadeNode.init(tree, { name: 'below', upstream: conninfo });
  await below.start();
  await below.waitForWal(await primary.currentLsn());
  const shown = assertDone(await run('status', '-D', 'node'));
  assert.match(shown, /^node +node \(PID \d+\), running$/m);
  assert.match(
    shown,
    new RegExp(`^upstream +127.0.0.1:${primary.port}, streaming, slot node$`, 'm'),
  );
  assert.match(shown, /^below +127\.0\.0\.1\(\d+\) +streaming +[0-9A-F]+\/[0-9A-F]+ /m);
  const status = JSON.parse(assertDone(await run('status', '-D', 'node', '--json'))) as {
    downstreams: { applicationName: string; slot: string }[];
  };
  assert.deepEqual(
    status.downstreams.map(({ applicationName, slot }) => [applicationName, slot]),
    [['below', 'below']],
  );
  await below.stop();

  // Reloaded: what changed has effect, what cannot is said, what is wrong is refused whole.
  const conf = join(tree.path, 'node', 'walcade.conf');
  await fs.appendFile(conf, 'wal_sender_timeout = 7s\nmax_wal_senders = 5\n');
  assert.equal(
    assertDone(await run('reload', '-D', 'node')),
    'configuration files were read again\n' +
      'parameter "max_wal_senders" has changed; it takes effect after a restart\n',
  );
  assert.equal(await show(conninfo, 'wal_sender_timeout'), '7s');
  assert.equal(await show(conninfo, 'max_wal_senders'), '1000');
  const good = await fs.readFile(conf, 'utf8');
  await fs.appendFile(conf, 'wal_sender_timeout = 8s\nwal_reciever_timeout = 1s\nport = 70000\n');
  const line = good.split('\n').length;
  assertRefused(await run('reload', '-D', 'node'), {
    message: /^configuration file "walcade\.conf" contains errors$/,
    detail: new RegExp(
      `^unrecognized configuration parameter "wal_reciever_timeout" ` +
        `in file "walcade\\.conf" line ${line + 1}\n` +
        `70000 is outside the valid range for parameter "port" \\(1 \\.\\. 65535\\) ` +
        `in file "walcade\\.conf" line ${line + 2}\n`,
    ),
    hint: /goes on with the configuration it had/,
  });
  assert.equal(await show(conninfo, 'wal_sender_timeout'), '7s');
  await fs.writeFile(conf, good);

  // Restarted: now the other parameter has effect as well.
  assert.match(assertDone(await run('restart', '-D', 'node')), /^node stopped\nready on /);
  assert.equal(await show(conninfo, 'max_wal_senders'), '5');

  // Not removed while it runs, nor without a yes.
  assertRefused(await run('remove', '-D', 'node', '--yes'), {
    message: /node is running \(PID \d+\)/,
    hint: /walcade stop -D node/,
  });
  assertRefused(await run('stop', '-D', 'node', '-m', 'smart'), {
    message: /unrecognized shutdown mode "smart"/,
    hint: /"fast" and "immediate"/,
  });
  assert.equal(assertDone(await run('stop', '-D', 'node')), 'node stopped\n');
  const unsure = await run('remove', '-D', 'node');
  assert.equal(unsure.status, 1);
  assert.match(unsure.stderr, /^nothing was removed/);

  // While the upstream is away nothing is removed; then the slot goes with the directory.
  await primary.stop();
  assertRefused(await run('remove', '-D', 'node', '--yes'), {
    message: /could not drop replication slot "node": connection to server .* refused/,
    detail: /Nothing was removed/,
    hint: /Try again when the upstream can be reached/,
  });
  assert.ok(existsSync(conf));
  await primary.start();
  assert.equal(
    assertDone(await run('remove', '-D', 'node', '--yes')),
    'node in "node" removed, slot "node" dropped on the upstream\n',
  );
  assert.equal(existsSync(join(tree.path, 'node')), false);
  assert.equal(await primary.sql('SELECT count(*) FROM pg_replication_slots'), '0');
});

test('init says what its upstream is, and of which version', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  const port = await tree.reservePort();
  const role = async (name: string, { conninfo }: { conninfo: string }): Promise<string> => {
    const args = ['init', '-D', name, '--upstream', conninfo, '--no-slot', '--port', `${port}`];
    const said = assertDone(await walcade(args, tree.path));
    return /^upstream +(.*), PostgreSQL \d/m.exec(said)?.[1] ?? said;
  };
  assert.equal(await role('of-primary', primary), 'primary');
  assert.equal(await role('of-standby', standby), 'standby');
  const node = await WalcadeNode.init(tree, { name: 'above', upstream: primary.conninfo });
  await node.start();
  assert.equal(await role('of-node', node), 'walcade node');

  // Before 14 a server does not say; it is no standby because somebody made it read-only.
  await primary.configure({ default_transaction_read_only: true });
  primary.reload();
  await primary.waitForSql('SHOW default_transaction_read_only', 'on');
  const isOld = primary.binaries.major < 14;
  assert.equal(await role('of-read-only', primary), isOld ? 'server' : 'primary');
});

test('immediate stop ends a node at once, and it starts again', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const run = (...args: string[]) => walcade(args, tree.path);
  assertDone(await initNode(tree, primary.conninfo, '--port', `${await tree.reservePort()}`));
  stopAtEnd(tree);
  assertDone(await run('start', '-D', 'node', '-l', 'node.log'));
  assert.equal(assertDone(await run('stop', '-D', 'node', '-m', 'immediate')), 'node stopped\n');
  const log = await fs.readFile(join(tree.path, 'node.log'), 'utf8');
  assert.match(log, /received immediate shutdown request/);

  // The pid file that is left names a process that lives, but not a node: the lock decides.
  const pidFile = join(tree.path, 'node', 'walcade.pid');
  await fs.writeFile(pidFile, `${process.pid}\n`);
  assert.equal((await run('status', '-D', 'node')).status, 3);
  assert.match(assertDone(await run('start', '-D', 'node')), /^ready on/);
  assert.match(await fs.readFile(pidFile, 'utf8'), /^\d+\n\d+\n\d+\nready\n$/);
  assert.equal(assertDone(await run('stop', '-D', 'node')), 'node stopped\n');
  assert.equal(existsSync(pidFile), false);
});

test('wal ls and verify find what is damaged or missing in any folder of segments', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const node = await WalcadeNode.init(tree, { name: 'node', upstream: primary.conninfo });
  await node.start();
  await primary.sql('CREATE TABLE payload (value text)');
  for (let segment = 0; segment < 4; segment += 1) {
    await primary.sql(
      'INSERT INTO payload SELECT repeat(md5(i::text), 8) FROM generate_series(1, 9) i',
    );
    await primary.sql('SELECT pg_switch_wal()');
  }
  await node.waitForWal(await primary.currentLsn());
  await node.stop();
  const run = (...args: string[]) => walcade(['wal', ...args], tree.path);

  // A node's own store proves true to where its WAL ends.
  const proof = assertDone(await run('verify', 'node'));
  assert.match(proof, /^timeline 1: .* proven to [0-9A-F]+\/[0-9A-F]+(, where WAL ends)?$/m);
  const names = (await fs.readdir(join(node.directory, 'pg_wal'))).filter((name) =>
    /^[0-9A-F]{24}$/.test(name),
  );
  assert.ok(names.length >= 4);
  const listed = assertDone(await run('ls', '-D', 'node'));
  for (const name of names) assert.match(listed, new RegExp(`^${name} +1 `, 'm'));

  // A byte changed in the middle.
  const copy = join(tree.path, 'copy');
  await fs.cp(join(node.directory, 'pg_wal'), copy, { recursive: true });
  const damaged = join(copy, names.sort()[1] ?? '');
  const bytes = await fs.readFile(damaged);
  bytes[200] = (bytes[200] ?? 0) ^ 0xff;
  await fs.writeFile(damaged, bytes);
  const damage = await run('verify', 'copy');
  assert.equal(damage.status, 1);
  assert.match(damage.stdout, /: damaged after [0-9A-F]+\/[0-9A-F]+$/m);

  // A segment that is missing.
  await fs.rm(damaged);
  const gap = await run('verify', 'copy');
  assert.equal(gap.status, 1);
  assert.match(gap.stdout, new RegExp(`^gap: ${names[1]}$`, 'm'));
  assert.match(assertDone(await run('ls', 'copy')), new RegExp(`^gap: ${names[1]}$`, 'm'));

  // A folder without any, and one that is not there.
  await tree.makeDirectory('empty');
  assertRefused(await run('verify', 'empty'), { message: /no WAL segments in "empty"/ });
  assertRefused(await run('ls', 'absent'), { message: /could not open directory "absent"/ });
});

/** Stops the node in the background when the test ends, however it ends. */
function stopAtEnd(tree: TestDirectory): void {
  tree.add({
    name: 'node',
    end: async () => {
      if (!existsSync(join(tree.path, 'node'))) return;
      await walcade(['stop', '-D', 'node', '-m', 'immediate'], tree.path);
    },
  });
}

/** What SHOW answers on a replication connection. */
async function show(conninfo: string, name: string): Promise<string | undefined> {
  const log = createLog(() => {}, { minimum: () => 'log' });
  const client = await connectUpstream(
    { network: systemNetwork, clock: systemClock, log },
    { text: conninfo, applicationName: 'test' },
    new AbortController().signal,
  );
  try {
    return await showSetting(client, name);
  } finally {
    await client.close();
  }
}
