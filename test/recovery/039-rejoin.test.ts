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
} from '../harness/former-primary.ts';
import { type Outcome, walcade } from '../harness/command-line.ts';
import { findTools } from '../harness/postgres-tools.ts';

const WRITES = [
  'INSERT INTO number VALUES (-2)',
  'INSERT INTO number VALUES (-3)',
  'INSERT INTO number SELECT generate_series(1, 20000)',
];

/** What its receiver says of the WAL that it keeps as a branch. */
const FORKED = /the upstream's history forked off timeline 2 before/;

test('a former primary that wrote on comes back by a base backup, and is told its loss', async (t) => {
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
