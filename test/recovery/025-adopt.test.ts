/**
 * `walcade adopt` with real data directories: which become a node's and answer SQL, and which are
 * refused with one message, nothing made and no file of theirs touched.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { appendFile, lstat, mkdir, readdir, rename } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import { readControlData } from '../../src/postgres/control-data.ts';
import { assertRefused, walcade } from '../harness/command-line.ts';
import { copyDirectory } from '../harness/file-backup.ts';
import { type PostgresBinaries, postgresUser } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const run = promisify(execFile);

test('a stopped standby goes on as a node, with its data where it was', async (t) => {
  const { tree, primary } = await startPrimary(t);
  const standby = await makeStandby(tree, primary);
  await standby.start();
  await standby.waitForCatchup(primary);
  await standby.stop();
  await primary.sql('INSERT INTO number VALUES (1)');

  const node = await adopt(tree, primary, { name: 'node', data: standby.dataDirectory });
  assert.equal((await node.status()).server?.dataDirectory, standby.dataDirectory);
  assert.ok(!existsSync(join(node.directory, 'data')));
  await expectFollows(node, primary);
});

test('a base backup that has its backup_label still is adopted, in its place or not', async (t) => {
  const { tree, primary } = await startPrimary(t);

  // One without WAL, elsewhere.
  const data = await primary.backup(join(tree.path, 'backup'));
  assert.ok(existsSync(join(data, 'backup_label')));
  const elsewhere = await adopt(tree, primary, { name: 'elsewhere', data });
  await expectFollows(elsewhere, primary);

  // One where a node has its data: it is named relative to the node.
  await mkdir(join(tree.path, 'inside'), { mode: 0o711 });
  const inside = await adopt(tree, primary, {
    name: 'inside',
    data: await primary.backup(join(tree.path, 'inside', 'data')),
  });
  await expectFollows(inside, primary);

  // The node as a whole can go elsewhere then.
  await inside.stop();
  await rename(inside.directory, join(tree.path, 'moved'));
  const moved = await WalcadeNode.at(tree, { name: 'moved', port: inside.port });
  await moved.start();
  await expectFollows(moved, primary);
});

test('what pg_basebackup makes is adopted', async (t) => {
  const tools = await findTools(['pg_basebackup']);
  if (tools === undefined) return t.diagnostic('not tested: this machine has no pg_basebackup');
  const { tree, primary } = await startPrimary(t, tools.binaries);
  for (const method of ['stream', 'none']) {
    const data = join(tree.path, `${method}-data`);
    const args = ['-X', method, '-c', 'fast', '-R', '-D', data];
    await tools.run('pg_basebackup', ['-d', primary.conninfo, ...args]);
    const user = await postgresUser();
    if (user !== undefined) await run('chown', ['-R', `${user.uid}:${user.gid}`, data]);
    await expectFollows(await adopt(tree, primary, { name: method, data }), primary);
  }
});

test('a primary that ended in peace, and was not ahead, follows as a node', async (t) => {
  const { tree, primary, standby } = await switchedOver(t);
  const node = await adopt(tree, standby, { name: 'node', data: primary.dataDirectory });
  await expectFollows(node, standby);
});

test('a primary that wrote on after its standby was promoted is refused', async (t) => {
  const { tree, primary, standby } = await switchedOver(t);
  await primary.start();
  await primary.sql('INSERT INTO number VALUES (-1)');
  await primary.stop();
  // By position alone it is not ahead.
  await standby.sql('INSERT INTO number SELECT generate_series(1, 10000)');
  await expectRefused(
    tree,
    { upstream: standby, data: primary.dataDirectory },
    /not in the upstream's history$/,
  );
});

test('a standby is held against the timeline that it was on when it stopped', async (t) => {
  const { tree, primary } = await startPrimary(t);
  const upstreamConninfo = primary.conninfo;
  const from = await primary.backup(join(tree.path, 'of-standbys'));
  const make = async (name: string): Promise<PostgresCluster> => {
    const standby = await PostgresCluster.standby(tree, { name, from, upstreamConninfo });
    await standby.start();
    return standby;
  };
  const [promoted, follower, stranger] = [await make('a'), await make('b'), await make('c')];
  const standbys = [promoted, follower, stranger];
  await primary.sql('CHECKPOINT');
  for (const standby of standbys) {
    await standby.waitForCatchup(primary);
    await standby.sql('CHECKPOINT');
  }
  // So many dirty pages keep the checkpoint after a promotion busy for a while.
  await primary.sql('INSERT INTO number SELECT generate_series(1, 50000)');
  for (const standby of standbys) await standby.waitForCatchup(primary);

  // Both stop behind the switch, each on its branch, with their last restartpoint before it.
  await promoted.promote();
  await follower.setUpstream(promoted.conninfo);
  await follower.restart();
  for (const [upstream, standby, timeline] of [
    [promoted, follower, 2],
    [primary, stranger, 1],
  ] as const) {
    await upstream.sql('INSERT INTO number VALUES (-1)');
    await standby.waitForCatchup(upstream);
    await standby.stop();
    const data = await readControlData(standby.dataDirectory);
    assert.deepEqual([data.timeline, data.minRecoveryTimeline], [1, timeline]);
  }

  // By position alone neither is ahead.
  await promoted.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  await expectRefused(
    tree,
    { upstream: promoted, data: stranger.dataDirectory },
    /not in the upstream's history$/,
  );
  const node = await adopt(tree, promoted, { name: 'node', data: follower.dataDirectory });
  await expectFollows(node, promoted);
});

test('what cannot follow the upstream is refused, and nothing is touched', async (t) => {
  const { tree, primary } = await startPrimary(t);
  const standby = await makeStandby(tree, primary);
  await standby.start();
  await standby.waitForCatchup(primary);

  // A server runs in it.
  const { dataDirectory } = standby;
  await expectRefused(tree, { upstream: primary, data: dataDirectory }, /is in use by a running/);

  // It is of another cluster, or of none.
  const other = await PostgresCluster.init(tree, { name: 'other' });
  await expectRefused(
    tree,
    { upstream: primary, data: other.dataDirectory },
    /^database system identifier differs between the upstream and the data directory$/,
  );
  const empty = await tree.makeDirectory('empty');
  for (const data of [empty, join(tree.path, 'nowhere')]) {
    await expectRefused(tree, { upstream: primary, data }, /is not a database cluster directory$/);
  }

  // It is of another major version.
  const tools = await findTools([]);
  if (tools === undefined || tools.major === primary.binaries.major) {
    t.diagnostic('this machine has no other major version: not tested with one');
  } else {
    const { binaries } = tools;
    const old = await PostgresCluster.init(tree, { name: 'old', binaries });
    const programs = dirname(binaries.postgres);
    const text = `data directory is of PostgreSQL ${tools.major}, the upstream is PostgreSQL`;
    await expectRefused(
      tree,
      { upstream: primary, data: old.dataDirectory, programs },
      new RegExp(text),
    );
  }

  // It is ahead of the upstream: a primary, stopped, of a standby that has not got all.
  await standby.setUpstream('host=127.0.0.1 port=1');
  await standby.restart();
  await primary.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  const crashed = join(tree.path, 'crashed');
  await primary.sql('CHECKPOINT');
  await primary.kill9();
  await copyDirectory(primary.dataDirectory, crashed, await postgresUser());
  await primary.start();
  await primary.stop();
  const ahead = { upstream: standby, data: primary.dataDirectory };
  await expectRefused(
    tree,
    ahead,
    /^data directory needs WAL at \S+, ahead of the upstream at \S+$/,
  );

  // It is of a primary that crashed.
  await primary.start();
  const wanted = /^data directory is of a server that is "in production"$/;
  await expectRefused(tree, { upstream: primary, data: crashed }, wanted);

  // A refusal leaves even a backup where a node has its data.
  const place = join(tree.path, 'refused');
  await mkdir(place);
  const data = await primary.backup(join(place, 'data'));
  await other.start();
  const before = await inventory(data);
  const outcome = await walcade(adoptArguments(place, other, { data }), tree.path);
  assertRefused(outcome, { message: /^database system identifier differs/ });
  assert.deepEqual(await inventory(data), before);
  assert.deepEqual(await readdir(place), ['data']);
});

test('what adopt has changed in the data is taken back if the node cannot be made', async (t) => {
  // A primary that was shut down in peace would have come up as a standby at its next start.
  if (process.getuid?.() !== 0 || process.platform !== 'linux') {
    return t.diagnostic('not tested: a small file system can be made by root on Linux only');
  }
  const { tree, primary, standby } = await switchedOver(t);
  const { dataDirectory: data } = primary;
  await appendFile(join(data, 'postgresql.conf'), "include 'nowhere.conf'\n");
  const inside = (files: string[]) => files.filter((file) => !file.startsWith('. '));
  const before = inside(await inventory(data));
  const small = await tree.makeDirectory('small');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=8k', 'walcade-test', small]);
  try {
    const args = adoptArguments(join(small, 'node'), standby, { data });
    assertRefused(await walcade(args, tree.path), {
      message: /^could not write file ".*small\/node\/walcade\S*": No space left on device$/,
    });
    assert.deepEqual(await readdir(small), []);
  } finally {
    await run('umount', [small]);
  }
  assert.deepEqual(inside(await inventory(data)), before);
  assert.equal(await standby.sql('SELECT count(*) FROM pg_replication_slots'), '0');

  // With room it is adopted, the directive that leads to nothing notwithstanding.
  await expectFollows(await adopt(tree, standby, { name: 'node', data }), standby);
});

test('a copy of a node whose data is elsewhere is refused until that is copied too', async (t) => {
  const { tree, primary } = await startPrimary(t);
  const data = await primary.backup(join(tree.path, 'backup'));
  const node = await adopt(tree, primary, { name: 'node', data });
  await expectFollows(node, primary);
  await node.stop();

  // Two servers would write into the same files.
  const copy = await WalcadeNode.at(tree, { name: 'copy' });
  await run('cp', ['-a', node.directory, copy.directory]);
  await copy.configure({ port: copy.port, cluster_name: 'copy' });
  const before = await inventory(data);
  copy.expectLog(/FATAL: {2}data directory is the same as that of node "node"$/);
  await assert.rejects(copy.start(), /copy ended with exit status 1/);
  await copy.stop();
  assert.deepEqual(await inventory(data), before);

  // With a copy of the data the two go on side by side.
  await run('cp', ['-a', data, `${data}-copy`]);
  await copy.configure({ data_directory: `${data}-copy` });
  for (const each of [node, copy]) await each.start();
  for (const each of [node, copy]) await expectFollows(each, primary);
});

interface Adoption {
  name: string;
  data: string;
}

/** A running node around `data`, below `upstream`. */
async function adopt(
  tree: TestDirectory,
  upstream: PostgresCluster,
  { name, data }: Adoption,
): Promise<WalcadeNode> {
  const node = await WalcadeNode.at(tree, { name });
  const args = adoptArguments(node.directory, upstream, { data });
  const { code, stdout, stderr } = await node.cli([...args, '--port', `${node.port}`]);
  assert.equal(code, 0, stderr);
  assert.match(stdout, new RegExp(`^data +${data}$`, 'm'));
  await node.configure({ unix_socket_directories: await tree.makeDirectory(`${name}.s`) });
  await node.start();
  return node;
}

function adoptArguments(
  directory: string,
  { conninfo, binaries }: PostgresCluster,
  { data, programs = dirname(binaries.postgres) }: { data: string; programs?: string },
): string[] {
  const where = ['-D', directory, '--data', data];
  return ['adopt', ...where, '--upstream', conninfo, '--postgres-bin', programs];
}

async function expectFollows(node: WalcadeNode, upstream: PostgresCluster): Promise<void> {
  await upstream.sql('INSERT INTO number VALUES (100)');
  await node.waitForCatchup(upstream);
  assert.equal(await node.dump(), await upstream.dump());
  assert.equal(await node.sql('SELECT pg_is_in_recovery()'), 't');
}

/** One message and a failure; no node, no slot, no change in the data directory. */
async function expectRefused(
  tree: TestDirectory,
  { upstream, ...rest }: { upstream: PostgresCluster; data: string; programs?: string },
  message: RegExp,
): Promise<void> {
  const directory = join(tree.path, 'refused');
  const before = await inventory(rest.data);
  const outcome = await walcade(adoptArguments(directory, upstream, rest), tree.path);
  assertRefused(outcome, { message });
  assert.ok(!existsSync(directory), message.source);
  assert.equal(await upstream.sql('SELECT count(*) FROM pg_replication_slots'), '0');
  assert.deepEqual(await inventory(rest.data), before);
}

/** Of each file: its owner, mode, size and when it was last changed. A server's may change. */
async function inventory(directory: string): Promise<string[]> {
  if (!existsSync(directory) || existsSync(join(directory, 'postmaster.pid'))) return [];
  const names = ['.', ...(await readdir(directory, { recursive: true }))].sort();
  return Promise.all(
    names.map(async (name) => {
      const { uid, mode, size, mtimeMs } = await lstat(join(directory, name));
      return `${name} ${uid} ${mode} ${size} ${Math.round(mtimeMs)}`;
    }),
  );
}

/** A standby, promoted after its primary was stopped in peace and all had come to it. */
async function switchedOver(t: TestContext) {
  const { tree, primary } = await startPrimary(t);
  const standby = await makeStandby(tree, primary);
  await standby.start();
  await standby.waitForCatchup(primary);
  await primary.stop();
  await standby.promote();
  return { tree, primary, standby };
}

async function makeStandby(tree: TestDirectory, primary: PostgresCluster) {
  return PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'of-standby')),
    upstreamConninfo: primary.conninfo,
  });
}

/** A running primary with a table `number`. */
async function startPrimary(
  t: TestContext,
  binaries?: PostgresBinaries,
): Promise<{ tree: TestDirectory; primary: PostgresCluster }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary', binaries });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  return { tree, primary };
}
