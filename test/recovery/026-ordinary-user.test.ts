/**
 * Who owns what of a node with an attached server, and who may look at it: as an ordinary user, who
 * runs all of it himself, and as root, who lends PostgreSQL another user.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { chmod, chown, lstat, readdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import type { ServerUser } from '../../src/postgres/server-user.ts';
import {
  type Outcome,
  PROGRAM,
  assertDone,
  assertRefused,
  walcade,
} from '../harness/command-line.ts';
import { numberCluster } from '../harness/number-cluster.ts';
import { findPostgres, postgresUser } from '../harness/postgres-binaries.ts';
import { SqlClient } from '../harness/sql-client.ts';
import { waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

/** Of what nobody but its owner may see. */
const OTHERS = 0o077;

/** Of what nobody but its owner may change. */
const WRITABLE_BY_OTHERS = 0o022;

test('an ordinary user makes, starts, asks and stops a node, and all of it is his', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const user = await postgresUser();
  const home = await tree.makeDirectory('home');
  if (user !== undefined) await chown(home, user.uid, user.gid);
  const asUser = (...args: string[]) => runAs(user, home, args);
  const { stderr } = await asUser('--version');
  if (stderr !== '') return t.diagnostic(`not tested: user ${user?.uid} cannot run it: ${stderr}`);

  // Made and started in the background, by him.
  const port = await tree.reservePort();
  const programs = dirname((await findPostgres()).postgres);
  const server = ['--with-postgres', '--postgres-bin', programs];
  const upstream = ['--upstream', primary.conninfo, '--port', `${port}`];
  assertDone(await asUser('init', '-D', 'node', ...upstream, ...server));
  tree.add({ name: 'node', end: async () => void (await asUser(...STOP_AT_ONCE)) });
  assert.match(assertDone(await asUser('start', '-D', 'node')), /^ready on /);

  // It follows, through its port.
  await primary.sql('INSERT INTO number VALUES (1)');
  const client = SqlClient.pooled('127.0.0.1', port);
  await waitForValue('the row', '1', () => client.run('SELECT value FROM number'));
  assert.equal(await client.run('SELECT pg_is_in_recovery()'), 't');
  await client.close();
  assert.match(assertDone(await asUser('status', '-D', 'node')), /^server .*PostgreSQL/m);

  // Each file is his, and nobody else can get at any.
  const directory = join(home, 'node');
  const uid = user?.uid ?? process.getuid?.();
  for (const [name, file] of await inventory(directory)) assert.equal(file.uid, uid, name);
  for (const name of ['.', 'data', 'private', 'private/sql', 'private/wal']) {
    assert.equal((await lstat(join(directory, name))).mode & 0o777, 0o700, name);
  }

  // Stopped, restarted, stopped.
  assert.equal(assertDone(await asUser('stop', '-D', 'node')), 'node stopped\n');
  assertDone(await asUser('restart', '-D', 'node'));
  assertDone(await asUser('stop', '-D', 'node'));
});

test('as root a node stays root, and PostgreSQL has what it needs and no more', async (t) => {
  const user = await postgresUser();
  if (user === undefined) return t.diagnostic('not tested: this is not root');
  const { tree, primary } = await numberCluster(t);
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: primary.conninfo,
    withPostgres: true,
  });
  await node.start();
  await primary.sql('INSERT INTO number VALUES (1)');
  await primary.sql('SELECT pg_switch_wal()');
  await primary.sql('INSERT INTO number VALUES (2)');
  await node.waitForCatchup(primary);

  // What can be passed through is root's; data and sockets are PostgreSQL's, and nobody else's.
  const modeOf = async (name: string) => (await lstat(join(node.directory, name))).mode & 0o777;
  for (const name of ['.', 'private']) assert.equal(await modeOf(name), 0o711, name);
  for (const name of ['data', 'private/sql', 'private/wal']) {
    assert.equal(await modeOf(name), 0o700, name);
  }

  // What is not PostgreSQL's is root's alone, but that it reads WAL, as restore_command has to.
  for (const [name, file] of await inventory(node.directory)) {
    const isServers = /^(data|private\/(sql|wal))(\/|$)/.test(name);
    const isOurSocket = name.startsWith('private/wal/.s.');
    assert.equal(file.uid, isServers && !isOurSocket ? user.uid : 0, name);
    if (isServers) continue;
    assert.equal(file.mode & WRITABLE_BY_OTHERS, 0, name);
    if (/^pg_wal(\/|$)/.test(name)) assert.equal(file.gid, user.gid, name);
    else if (!/^(\.|private.*)$/.test(name)) assert.equal(file.mode & OTHERS, 0, name);
  }
  assert.equal((await lstat(`/proc/${node.pid}`)).uid, 0);
  const { pid } = (await node.status()).server ?? {};
  assert.equal((await lstat(`/proc/${pid}`)).uid, user.uid);

  // After a crash its server finds the WAL that the node has, also if that was root's alone, as a
  // relay has it, or a copy.
  const mark = await node.log.mark();
  await node.kill9();
  const wal = join(node.directory, 'pg_wal');
  for (const name of ['.', ...(await readdir(wal))]) {
    await chown(join(wal, name), 0, 0);
    await chmod(join(wal, name), name === '.' ? 0o700 : 0o600);
  }
  await node.start();
  await node.waitForLog(/restored log file "[0-9A-F]{24}" from archive/, { since: mark });
  await node.waitForCatchup(primary);
  assert.equal(await node.dump(), await primary.dump());
});

test('what PostgreSQL could not use as its own user is refused at once', async (t) => {
  const user = await postgresUser();
  if (user === undefined) return t.diagnostic('not tested: this is not root');
  const { tree, primary } = await numberCluster(t);
  const programs = ['--postgres-bin', dirname((await findPostgres()).postgres)];
  const upstream = ['--upstream', primary.conninfo, ...programs];
  const inside = await tree.makeDirectory('inside');
  const refused = async (args: readonly string[], message: RegExp): Promise<void> => {
    const outcome = await walcade([...args, '-D', 'node', ...upstream], inside);
    assertRefused(outcome, { message });
    assert.equal(await primary.sql('SELECT count(*) FROM pg_replication_slots'), '0');
    assert.deepEqual(await readdir(inside), []);
  };

  // Nobody but root gets through to where the node would be.
  await chmod(inside, 0o700);
  const unreachable = /^directory ".*\/inside" cannot be reached by user ID \d+, who runs/;
  await refused(['init', '--with-postgres'], unreachable);
  const data = await primary.backup(join(tree.path, 'backup'));
  await refused(['adopt', '--data', data], unreachable);
  await chmod(inside, 0o755);

  // A data directory is root's, as pg_basebackup leaves it, or open to others.
  await chown(data, 0, 0);
  await refused(['adopt', '--data', data], /^data directory ".*" has wrong ownership$/);
  await chown(data, user.uid, user.gid);
  await chmod(data, 0o755);
  await refused(['adopt', '--data', data], /^data directory ".*" has invalid permissions$/);
  await chmod(data, 0o750);
  assertDone(await walcade(['adopt', '--data', data, '-D', 'node', ...upstream], inside));
});

const STOP_AT_ONCE = ['stop', '-D', 'node', '-m', 'immediate'];

/** Runs `walcade` as `user` in his home, with nothing of the tester's environment. */
async function runAs(
  user: ServerUser | undefined,
  home: string,
  args: readonly string[],
): Promise<Outcome> {
  const env = { PATH: process.env['PATH'], HOME: home, TZ: 'UTC', LC_ALL: 'C' };
  const options = { cwd: home, env, ...user };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [PROGRAM, ...args], options, (error, stdout, stderr) => {
      const status = error === null ? 0 : error.code;
      if (typeof status === 'number') resolve({ status, stdout, stderr });
      else reject(new Error(`walcade ${args.join(' ')} did not end`, { cause: error }));
    });
  });
}

/** All that is in the directory and itself, but what a running server has just removed. */
async function inventory(directory: string) {
  const names = ['.', ...(await readdir(directory, { recursive: true }))];
  const found = await Promise.all(
    names.map(async (name) => {
      const file = await lstat(join(directory, name)).catch(() => undefined);
      return file === undefined ? [] : [[name, file] as const];
    }),
  );
  return found.flat();
}
