/**
 * What can be wrong with a `walcade rejoin`, and where it can be broken off: nothing is changed, or
 * the node does not start until the next rejoin has finished what was begun.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import {
  type Outcome,
  PROGRAM,
  type Refusal,
  assertRefused,
  walcade,
} from '../harness/command-line.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { type FormerPrimary, formerPrimary } from '../harness/former-primary.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const WRITES = ['INSERT INTO number VALUES (-2)'];

test('without a terminal and --yes nothing is taken back', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const refused = await refuses(cluster, cluster.current.conninfo, {
    message: /^cannot ask whether to replace the data directory, as standard input is not a/,
    detail: /^Nothing was changed\.$/m,
    hint: /^Use --yes to go on without a question\.$/,
  });
  assert.match(refused.stderr, /^lost +\d+ bytes of WAL on timeline 2 after \S+, up to \S+$/m);
  assert.match(refused.stderr, /^ +transactions committed in it: 1, committed at 20.* UTC$/m);

  // What is in the way of a base backup is found out before the question.
  const inTheWay = join(cluster.old.directory, 'data.new');
  await fs.mkdir(inTheWay);
  await refuses(cluster, cluster.current.conninfo, {
    message: /data\.new" exists already$/,
    hint: /^Remove or rename it\.$/,
  });
  await fs.rmdir(inTheWay);
  assert.equal(await slotsOf(cluster), '');
});

test('a node or a server that runs is left alone', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { old, current } = cluster;
  const data = join(old.directory, 'data');

  // A process that works in the data directory, of which postmaster.pid tells.
  const server = spawn('sleep', ['600'], { cwd: data, stdio: 'ignore' });
  t.after(() => server.kill());
  const pidFile = join(data, 'postmaster.pid');
  await fs.writeFile(pidFile, `${server.pid}\n${data}\n`);
  await refuses(cluster, current.conninfo, {
    message: new RegExp(`data" is in use by a running server \\(PID ${server.pid}\\)$`),
    hint: /^Stop it first/,
  });
  server.kill();
  await fs.rm(pidFile);

  await old.start();
  const outcome = await rejoin(cluster, current.conninfo, '--yes');
  assertRefused(outcome, {
    message: /^lock file "walcade\.pid" is held$/,
    detail: new RegExp(`^A walcade process \\(PID ${old.pid}\\) is running in directory`),
    hint: /^Stop it first, with "walcade stop"\.$/,
  });
  assert.equal(await old.sql('SELECT count(*) FROM number'), '1001');
});

test('an upstream that cannot be followed is refused', async (t) => {
  const cluster = await formerPrimary(t, { isPromoted: false });
  const { tree, primary, current } = cluster;

  // Nobody was promoted: the other one is a standby of this node.
  await refuses(cluster, current.conninfo, {
    message: /^upstream receives its WAL from this node$/,
    detail: /^Following it would close a loop that no primary feeds\.$/m,
    hint: /^Name the server that was promoted, or one below it\.$/,
  });

  // The primary from before is behind.
  await primary.start();
  await refuses(cluster, primary.conninfo, {
    message: /^upstream is on timeline 1, behind timeline 2 of this node$/,
    hint: /^Name the server that was promoted last, or one below it\.$/,
  });

  // One of another cluster, none at all, and what is no connection string.
  const other = await PostgresCluster.init(tree, { name: 'other' });
  await other.start();
  await refuses(cluster, other.conninfo, {
    message: /^database system identifier differs between the upstream and this node$/,
    hint: /^Name a server of the same cluster\.$/,
  });
  await refuses(cluster, 'host=127.0.0.1 port=1 user=postgres', { message: /refused/ });
  await refuses(cluster, 'nonsense', { message: /^invalid upstream: / });
});

test('only a node with a server rejoins', async (t) => {
  const cluster = await formerPrimary(t);
  const { tree, current } = cluster;
  const upstream = current.conninfo;
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream });
  const rejoinIn = (name: string): Promise<Outcome> =>
    walcade(['rejoin', '-D', name, '--upstream', upstream, '--yes'], tree.path);
  assertRefused(await rejoinIn(relay.name), {
    message: /^node in ".*relay" has no PostgreSQL server$/,
    hint: /"walcade follow"/,
  });
  assertRefused(await rejoinIn('nowhere'), { message: /^directory "nowhere" does not exist$/ });
});

test('a base backup that breaks off leaves all as it was', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { tree, old, current } = cluster;
  const slow = { bytesPerSecond: 8_000_000 };
  const network = await FaultyNetwork.between(tree, current.port, slow);
  const fresh = join(old.directory, 'data.new');
  const before = await inventory(old.directory);

  // By a network that is cut, and by a Ctrl-C.
  for (const breakOff of [
    () => network.resetAll(),
    (child: ChildProcess) => child.kill('SIGINT'),
  ]) {
    const { child, outcome } = startRejoin(cluster, network.conninfo);
    await waitFor('data', () => existsSync(join(fresh, 'backup_label')));
    breakOff(child);
    const { status, stderr } = await outcome;
    assert.equal(status, 1);
    assert.match(stderr, /error: (?:connection to upstream was lost during|canceled by SIGINT)/);
    assert.deepEqual(await inventory(old.directory), before);
    await waitFor('the slot to be dropped', async () => (await slotsOf(cluster)) === '');
  }

  // Killed, it leaves what it had: the node starts as it was, and the next rejoin clears up.
  const { child, outcome } = startRejoin(cluster, network.conninfo);
  await waitFor('data', () => existsSync(join(fresh, 'backup_label')));
  child.kill('SIGKILL');
  await outcome;
  assert.ok(existsSync(fresh));
  await old.start();
  assert.equal(await old.sql('SELECT pg_is_in_recovery()'), 'f');
  await old.stop();
  network.setFaults({ bytesPerSecond: 0 });
  const { status, stderr } = await rejoin(cluster, network.conninfo, '--yes');
  assert.equal(status, 0, stderr);
  await expectFollows(cluster);
});

test('what was broken off later is finished by the next rejoin, not started', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { old, current } = cluster;
  const done = await rejoin(cluster, current.conninfo, '--yes');
  assert.equal(done.status, 0, done.stderr);
  await expectFollows(cluster);

  // Each state is made as a rejoin leaves it that is killed there.
  const data = join(old.directory, 'data');
  const states: [step: string, make: () => Promise<void>, inTheMiddleOf: RegExp][] = [
    ['swapping', () => fs.rename(data, `${data}.new`), /the base backup was put in the place of/],
    ['swapping', () => fs.mkdir(`${data}.old`), /the base backup was put in the place of/],
    ['finishing', () => old.configure({ primary_conninfo: 'host=x' }), /pointed to its new upst/],
    ['rewinding', () => fs.rm(join(data, 'global/pg_control')), /pg_rewind was changing the data/],
    ['replacing', () => fs.mkdir(`${data}.new`), /a base backup was taken to replace what/],
  ];
  for (const [step, make, inTheMiddleOf] of states) {
    await old.stop();
    await make();
    await fs.writeFile(join(old.directory, 'walcade.rejoin'), `${step}\n`);
    const started = await walcade(['start', '-D', old.directory], cluster.tree.path);
    assertRefused(started, {
      message: /^could not start node: node has not rejoined its cluster yet$/,
      detail: inTheMiddleOf,
      hint: /^Run "walcade rejoin" again: it finishes what was begun\.$/,
    });
    // It was agreed to before.
    const { status, stderr } = await rejoin(cluster, current.conninfo);
    assert.equal(status, 0, `${step}: ${stderr}`);
    await expectFollows(cluster);
  }
});

function rejoin({ tree }: FormerPrimary, upstream: string, ...args: string[]): Promise<Outcome> {
  return walcade(['rejoin', '-D', 'old', '--upstream', upstream, ...args], tree.path);
}

/** Runs it with --yes, as a process that can be killed. */
function startRejoin(
  { tree }: FormerPrimary,
  upstream: string,
): { child: ChildProcess; outcome: Promise<{ status: number | null; stderr: string }> } {
  const args = [PROGRAM, 'rejoin', '-D', 'old', '--upstream', upstream, '--yes'];
  const env = { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1' };
  const child = spawn(process.execPath, args, { cwd: tree.path, env });
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const outcome = new Promise<{ status: number | null; stderr: string }>((resolve) => {
    child.once('close', (status) => resolve({ status, stderr }));
  });
  return { child, outcome };
}

/** Asserts that it is refused, with nothing changed. */
async function refuses(
  cluster: FormerPrimary,
  upstream: string,
  refusal: Refusal,
): Promise<Outcome> {
  const before = await inventory(cluster.old.directory);
  const outcome = await rejoin(cluster, upstream);
  assertRefused(outcome, refusal);
  assert.deepEqual(await inventory(cluster.old.directory), before);
  return outcome;
}

/** The node's files: a change of any changes it. */
async function inventory(directory: string): Promise<string[]> {
  const entries = await fs.readdir(directory, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => !entry.isDirectory());
  return Promise.all(
    files.map(async ({ parentPath, name }) => {
      const path = join(parentPath, name);
      const { size, mtimeMs, ino, mode } = await fs.lstat(path);
      return `${path} ${size} ${mtimeMs} ${ino} ${mode}`;
    }),
  );
}

function slotsOf({ current }: FormerPrimary): Promise<string> {
  return fs
    .readdir(join(current.directory, 'pg_replslot'))
    .then((names) => names.filter((name) => name.startsWith('old')).join());
}

async function expectFollows({ old, current }: FormerPrimary): Promise<void> {
  old.expectLog(/the upstream's history forked off timeline 2 before/);
  await old.start();
  await current.sql('INSERT INTO number VALUES (-4)');
  await old.waitForCatchup(current);
  assert.equal(await old.dump(), await current.dump());
  const names = await fs.readdir(old.directory);
  assert.deepEqual(
    names.filter((name) => /rejoin|\.new$|\.old$|\.tmp$/.test(name)),
    [],
  );
}
