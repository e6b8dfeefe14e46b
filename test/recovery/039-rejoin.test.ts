/**
 * `walcade rejoin` with real servers: a former primary's node comes back as a standby of the server
 * that was promoted after it, and is told before what it loses by that.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import {
  type FormerPrimary,
  type FormerPrimaryOptions,
  formerPrimary,
  promote,
} from '../harness/former-primary.ts';
import { makeTablespace, numberCluster } from '../harness/number-cluster.ts';
import { type Outcome, walcade } from '../harness/command-line.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const WRITES = [
  'INSERT INTO number VALUES (-2)',
  'INSERT INTO number VALUES (-3)',
  'INSERT INTO number SELECT generate_series(1, 20000)',
];

/** What its receiver says of the WAL that it keeps as a branch. */
const FORKED = /the upstream's history forked off timeline 2 before/;

test('a former primary that wrote on comes back by a base backup, told its loss', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES, ends: 'by a crash' });
  const { stdout, stderr, status } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^lost +\d+ (?:kB|MB) of WAL on timeline 2 after \S+, up to \S+$/m);
  assert.match(stderr, /^ +transactions committed in it: 3, committed (?:at|from) 20.* UTC$/m);
  assert.match(stdout, /^data +replaced by a base backup of \d+ MB$/m);
  assert.match(stdout, /^WAL +goes on from the fork$/m);
  cluster.old.expectLog(FORKED);
  await expectFollows(cluster);
  assert.deepEqual(await leftovers(cluster), []);
});

test('a former primary that ended in peace, and gave all it had, goes on as it is', async (t) => {
  const cluster = await formerPrimary(t);
  const data = join(cluster.old.directory, 'data');
  const before = await fs.stat(data);
  const { stdout, stderr, status } = await rejoin(cluster);
  assert.equal(stderr, '');
  assert.equal(status, 0);
  assert.match(stdout, /^data +nothing lost: it goes on as it is, as a standby$/m);
  assert.equal((await fs.stat(data)).ino, before.ino);
  await expectFollows(cluster);
});

test('pg_rewind takes a former primary back where the server has one', async (t) => {
  const server = await serverWithRewind(t);
  if (server === undefined) return;
  const settings = { wal_log_hints: true };
  for (const ends of ['by a crash', 'in peace'] as const) {
    const cluster = await formerPrimary(t, { writes: WRITES, ends, server, settings });
    const data = join(cluster.old.directory, 'data');
    const before = await fs.stat(data);
    const { stdout, stderr, status } = await rejoin(cluster, '--yes');
    assert.equal(status, 0, stderr);
    assert.match(stderr, /^ +transactions committed in it: 3, /m);
    assert.match(stdout, /^data +taken back by pg_rewind$/m);
    assert.equal((await fs.stat(data)).ino, before.ino);
    cluster.old.expectLog(FORKED);
    await expectFollows(cluster);
    assert.deepEqual(await leftovers(cluster), []);
  }
});

test('without checksums and hints there is a base backup instead of pg_rewind', async (t) => {
  const server = await serverWithRewind(t);
  if (server === undefined) return;
  const cluster = await formerPrimary(t, { writes: WRITES, server });
  const { stdout, stderr, status } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^ +no pg_rewind: It needs data checksums or wal_log_hints, /m);
  assert.match(stdout, /^data +replaced by a base backup of \d+ MB$/m);
  cluster.old.expectLog(FORKED);
  await expectFollows(cluster);
});

// Both take the number 2 at the same position, and no history file tells one from the other.
test('of two nodes that were promoted at once, one comes back to the other', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const upstream = primary.conninfo;
  const make = async (name: string): Promise<WalcadeNode> => {
    const node = await WalcadeNode.init(tree, { name, upstream, withPostgres: true });
    await node.start();
    await node.waitForCatchup(primary);
    return node;
  };
  const cluster = { tree, primary, old: await make('old'), current: await make('current') };
  const { old, current } = cluster;
  await primary.stop();
  for (const node of [old, current]) await promote(node);
  await old.sql('INSERT INTO number VALUES (-2)');
  await current.sql('INSERT INTO number VALUES (-3)');
  await old.stop();
  const { stdout, stderr, status } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  assert.match(stderr, /^lost +\d+ bytes of WAL on timeline 2 after /m);
  assert.match(stderr, /^ +no pg_rewind: The two have given one number to two timelines, /m);
  assert.match(stdout, /^WAL +begins anew at /m);
  await expectFollows(cluster);
  assert.equal(await old.sql('SELECT value FROM number WHERE value < -1 ORDER BY 1'), '-4\n-3');
});

test('tablespaces go where they are told to, and those of the old data are left', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { tree, old, current } = cluster;
  const location = await makeTablespace({ tree, primary: current }, 'first');
  await current.sql('CREATE TABLE elsewhere TABLESPACE first AS SELECT 1 AS value');
  const refused = await rejoin(cluster, '--yes');
  assert.match(refused.stderr, /first" exists but is not empty$/m);
  assert.match(
    refused.stderr,
    /^HINT: {2}Use --tablespace-mapping ".*=DIRECTORY" to put it elsew/m,
  );
  assert.deepEqual(await leftovers(cluster), []);

  const place = join(await tree.makeDirectory('places'), 'a');
  const map = (to: string): string[] => ['--tablespace-mapping', `${location}=${to}`];
  const first = await rejoin(cluster, '--yes', ...map(place));
  assert.equal(first.status, 0, first.stderr);
  old.expectLog(FORKED);
  await expectFollows(cluster);
  await old.stop();

  // Once more, as after a pg_rewind that was broken off: the tablespace that it has now is left.
  await fs.writeFile(join(old.directory, 'walcade.rejoin'), 'rewinding\n');
  const second = await rejoin(cluster, ...map(`${place}-2`));
  assert.equal(second.status, 0, second.stderr);
  assert.match(second.stdout, new RegExp(`^left +${place}: a tablespace of the old data$`, 'm'));
  await expectFollows(cluster);
});

test('data that lie elsewhere are replaced there, and what leads to them stays', async (t) => {
  const cluster = await formerPrimary(t, { writes: WRITES });
  const { tree, old } = cluster;
  const elsewhere = await tree.makeDirectory('elsewhere');
  await fs.chmod(elsewhere, 0o711);
  const data = join(elsewhere, 'pg');
  await fs.rename(join(old.directory, 'data'), data);
  const link = join(tree.path, 'link');
  await fs.symlink(data, link);
  await old.configure({ data_directory: link });
  const before = await fs.stat(data);
  const { stderr, status } = await rejoin(cluster, '--yes');
  assert.equal(status, 0, stderr);
  assert.deepEqual(await fs.readdir(elsewhere), ['pg']);
  assert.notEqual((await fs.stat(link)).ino, before.ino);
  old.expectLog(FORKED);
  await expectFollows(cluster);
});

/** The newest PostgreSQL of this machine that has pg_rewind. */
async function serverWithRewind(t: TestContext): Promise<FormerPrimaryOptions['server']> {
  const tools = await findTools(['pg_rewind']);
  if (tools !== undefined) {
    return { binaries: tools.binaries, directory: dirname(tools.binaries.postgres) };
  }
  t.diagnostic('not tested: this machine has no pg_rewind');
  return undefined;
}

function rejoin({ tree, current }: FormerPrimary, ...args: string[]): Promise<Outcome> {
  return walcade(['rejoin', '-D', 'old', '--upstream', current.conninfo, ...args], tree.path);
}

async function expectFollows({ old, current }: FormerPrimary): Promise<void> {
  await old.start();
  await current.sql('INSERT INTO number VALUES (-4)');
  await old.waitForCatchup(current);
  assert.equal(await old.sql('SELECT pg_is_in_recovery()'), 't');
  assert.equal(await old.dump(), await current.dump());
  assert.equal(await old.sql('SELECT count(*) FROM pg_replication_slots'), '0');
  assert.equal((await old.status()).timeline, (await current.status()).timeline);
}

/** What lies in the node's directory that a node does not have. */
async function leftovers({ old }: FormerPrimary): Promise<string[]> {
  const names = await fs.readdir(old.directory);
  return names.filter((name) => /rejoin|\.new$|\.old$|\.tmp$/.test(name));
}
