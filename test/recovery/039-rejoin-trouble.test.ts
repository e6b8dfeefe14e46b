/**
 * A `walcade rejoin` that runs into trouble on the way: a disk without room, a pg_rewind that fails
 * half way, WAL that is removed while somebody thinks the question over, data on a volume of their
 * own, and configuration files that mean something else here.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { createLog } from '../../src/base/log.ts';
import { type RejoinOptions, rejoinNode } from '../../src/node/rejoin-node.ts';
import { systemDoors } from '../../src/node/system-doors.ts';
import { type Outcome, assertRefused, walcade } from '../harness/command-line.ts';
import {
  type FormerPrimary,
  type FormerPrimaryOptions,
  formerPrimary,
} from '../harness/former-primary.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { NOT_MOUNTED, canMount, mountOn, resizeMount } from '../harness/small-disk.ts';
import { waitFor } from '../harness/wait.ts';

const WRITES = [
  'INSERT INTO number VALUES (-2)',
  'INSERT INTO number SELECT generate_series(1, 20000)',
];
const NO_REWIND = 'not tested: this machine has no pg_rewind';

test('without room for a base backup all stays as it was, until there is room', async (t) => {
  if (!canMount) return t.diagnostic(NOT_MOUNTED);
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { tree, old } = cluster;
  mountOn(tree, old.directory, { freeMegabytes: 12 });
  const before = await inventory(old.directory);
  const refused = await rejoin(cluster, '--yes');
  assertRefused(refused, { message: /^no room for a base backup of \d+ MB in ".*data\.new"$/ });
  assert.deepEqual(await inventory(old.directory), before);
  await waitFor('the slot to be dropped', async () => (await slotsOf(cluster)) === '');
  await old.start();
  assert.equal(await old.sql('SELECT pg_is_in_recovery()'), 'f');
  await old.stop();

  resizeMount(old.directory, 400);
  const { status, stderr } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  await expectFollows(cluster);
});

test('what a pg_rewind leaves that fails half way is replaced by the next rejoin', async (t) => {
  const cluster = await formerPrimaryWithRewind(t);
  if (cluster === undefined) return t.diagnostic(NO_REWIND);
  const { tree, old, current } = cluster;
  // It looks at everything before, and finds out only when it writes.
  const path = await current.sql(`SELECT pg_relation_filepath('number')`);
  await fs.chmod(join(old.directory, 'data', path), 0o400);
  const { status, stderr } = await rejoin(cluster, '--yes');
  assert.equal(status, 1);
  assert.match(stderr, /^walcade: error: pg_rewind ended with exit status 1$/m);
  assert.match(stderr, /could not open .*: Permission denied$/m);
  assert.match(stderr, /^HINT: {2}Run "walcade rejoin" again: it finishes what was begun\.$/m);
  assertRefused(await walcade(['start', '-D', 'old'], tree.path), {
    message: /^could not start node: node has not rejoined its cluster yet$/,
    detail: /pg_rewind was changing the data directory/,
    hint: /^Run "walcade rejoin" again/,
  });
  // The slot stays with the node that will use it.
  assert.notEqual(await slotsOf(cluster), '');

  const again = await rejoin(cluster);
  assert.equal(again.status, 0, again.stderr);
  assert.match(again.stdout, /^data +replaced by a base backup of \d+ MB$/m);
  await expectFollows(cluster);
});

test('WAL that is removed while the question is open makes it a base backup', async (t) => {
  const cluster = await formerPrimaryWithRewind(t);
  if (cluster === undefined) return t.diagnostic(NO_REWIND);
  const { old, current } = cluster;
  // Without a slot nothing holds WAL for it.
  await old.configure({ primary_slot_name: '' });
  const asked: string[] = [];
  const warnings: string[] = [];
  const confirm: RejoinOptions['confirm'] = async ({ method }) => {
    asked.push(method);
    await removeWal(cluster);
    return true;
  };
  const log = createLog(({ message, detail }) => warnings.push(`${message}: ${detail}`), {
    minimum: () => 'warning',
  });
  const options = {
    directory: old.directory,
    upstream: current.conninfo,
    binDirectory: undefined,
    tablespaceMapping: new Map<string, string>(),
    onProgress: () => {},
    confirm,
  };
  const rejoined = await rejoinNode({ ...systemDoors, log }, options, new AbortController().signal);
  assert.deepEqual(asked, ['pg_rewind']);
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0] ?? '',
    /^pg_rewind is of no use here, a base backup is taken: WAL from \S+ on is nowhere\.$/,
  );
  assert.equal(rejoined?.method, 'base backup');
  assert.equal(rejoined?.store.kind, 'begins anew');
  await expectFollows(cluster);
});

test('data on a volume of their own are taken back by pg_rewind, and not replaced', async (t) => {
  if (!canMount) return t.diagnostic(NOT_MOUNTED);
  const cluster = await formerPrimaryWithRewind(t);
  if (cluster === undefined) return t.diagnostic(NO_REWIND);
  const { tree, old } = cluster;
  const data = join(old.directory, 'data');
  mountOn(tree, data, { freeMegabytes: 200 });
  const { status, stdout, stderr } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^data +taken back by pg_rewind$/m);
  await expectFollows(cluster);
  await old.stop();

  // As after one that was broken off.
  await fs.writeFile(join(old.directory, 'walcade.rejoin'), 'rewinding\n');
  assertRefused(await rejoin(cluster, '--yes'), {
    message: /^data directory ".*data" is a mount point$/,
    detail: /^A base backup cannot be put in its place\.$/m,
  });
});

// Recovery obeyed it, and ran in the directory of another cluster.
test('a postgresql.conf that names another directory leads nobody there', async (t) => {
  const cluster = await formerPrimaryWithRewind(t, { ends: 'by a crash' });
  if (cluster === undefined) return t.diagnostic(NO_REWIND);
  const conf = join(cluster.old.directory, 'data', 'postgresql.conf');
  await fs.appendFile(conf, `data_directory = '/nowhere'\n`);
  const { status, stdout, stderr } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  assert.match(stdout, /^data +taken back by pg_rewind$/m);
  await expectFollows(cluster);
});

test('a setting that an included file would override is told before anything else', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { old } = cluster;
  const conf = join(old.directory, 'walcade.conf');
  await fs.writeFile(join(old.directory, 'more.conf'), `primary_conninfo = 'host=elsewhere'\n`);
  await fs.appendFile(conf, `include 'more.conf'\n`);
  const before = await inventory(old.directory);
  assertRefused(await rejoin(cluster, '--yes'), {
    message: /^parameter "primary_conninfo" is set in a file that "walcade\.conf" includes$/,
  });
  assert.deepEqual(await inventory(old.directory), before);
  assert.equal(await slotsOf(cluster), '');
});

async function formerPrimaryWithRewind(
  t: TestContext,
  options: Pick<FormerPrimaryOptions, 'ends'> = {},
): Promise<FormerPrimary | undefined> {
  const tools = await findTools(['pg_rewind']);
  if (tools === undefined) return undefined;
  const { binaries } = tools;
  const server = { binaries, directory: dirname(binaries.postgres) };
  const settings = { wal_log_hints: true };
  return formerPrimary(t, { writes: WRITES, server, settings, ...options });
}

function rejoin({ tree, current }: FormerPrimary, ...args: string[]): Promise<Outcome> {
  return walcade(['rejoin', '-D', 'old', '--upstream', current.conninfo, ...args], tree.path);
}

/** Nobody has the WAL from before the fork any more. */
async function removeWal({ old, current }: FormerPrimary): Promise<void> {
  const segments = async (directory: string): Promise<string[]> =>
    (await fs.readdir(join(directory, 'pg_wal'))).filter((name) => /^[0-9A-F]{24}$/.test(name));
  for (const name of await segments(old.directory)) {
    await fs.rm(join(old.directory, 'pg_wal', name));
  }
  const before = await segments(current.directory);
  await waitFor('the upstream to have removed its WAL', async () => {
    await current.sql('INSERT INTO number VALUES (-5)');
    await current.sql('SELECT pg_switch_wal()');
    await current.sql('CHECKPOINT');
    const now = await segments(current.directory);
    return before.every((name) => !now.includes(name));
  });
}

async function expectFollows({ old, current }: FormerPrimary): Promise<void> {
  old.expectLog(/the upstream's history forked off timeline 2 before/);
  await old.start();
  await current.sql('INSERT INTO number VALUES (-4)');
  await old.waitForCatchup(current);
  assert.equal(await old.sql('SELECT pg_is_in_recovery()'), 't');
  assert.equal(await old.dump(), await current.dump());
  const names = await fs.readdir(old.directory);
  assert.deepEqual(
    names.filter((name) => /rejoin|\.new$|\.old$|\.tmp$/.test(name)),
    [],
  );
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
