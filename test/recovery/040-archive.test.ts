/**
 * A node finds in the archive what nobody streams to it: all of its WAL, the part that its upstream
 * has removed, or the timeline of a promotion that it never saw. Whatever the archive does wrong,
 * nothing is lost and the log says what it was.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { copyFile, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Lsn, lsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { segmentName } from '../../src/wal/segment.ts';
import {
  type ArchivedCluster,
  archiveRelay,
  archivedCluster,
  fillSegment,
} from '../harness/archived-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { RawSession, describeHeard } from '../harness/raw-session.ts';
import { waitFor, waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const COUNT = 'SELECT count(*) FROM load';

test('a relay without an upstream feeds a standby from the archive', async (t) => {
  const cluster = await archivedCluster(t);
  const { primary, archive } = cluster;
  const relay = await archiveRelay(cluster);
  const standby = await standbyOf(cluster, relay);
  await relay.configure({ primary_conninfo: '' });
  await fillSegment(primary, archive);
  await relay.start();
  await standby.start();
  for (let round = 0; round < 3; round += 1) {
    const end = await fillSegment(primary, archive);
    await relay.waitForWal(end);
    await standby.waitForReplay(end);
  }
  assert.equal(await standby.sql(COUNT), await primary.sql(COUNT));
  assert.equal(await standby.dump(), await primary.dump());

  // What status says while it waits for the next segment, but for when it asks again.
  const waits = /upstream +none, waiting\n +the archive has no 0{7}1[0-9A-F]{16}\n/;
  await waitFor('status to say that it waits', async () =>
    waits.test((await relay.cli(['status', '-D', relay.directory])).stdout),
  );

  // It is as durable as if it had been streamed.
  await relay.restart();
  const end = await fillSegment(primary, archive);
  await standby.waitForReplay(end);
  const { code } = await relay.cli(['wal', 'verify', relay.directory]);
  assert.equal(code, 0);
  const text = await relay.log.text();
  assert.match(text, /restored log file "0{7}1[0-9A-F]{16}" from archive/);
  assert.doesNotMatch(text, /started streaming/);

  // Older WAL than its own it can ask nobody for.
  const session = await RawSession.start(cluster.tree, relay.port);
  await session.answer('IDENTIFY_SYSTEM');
  await session.answer('START_REPLICATION PHYSICAL 0/100000 TIMELINE 1');
  const [refusal] = (await session.until('E')).map(describeHeard).slice(-1);
  const gone = 'requested WAL segment 000000010000000000000001 has already been removed';
  assert.equal(refusal, `E ERROR 58P01 ${gone}`);
});

test('what the upstream has removed comes from the archive, and then it streams', async (t) => {
  const cluster = await archivedCluster(t);
  const { primary, archive } = cluster;
  const relay = await archiveRelay(cluster);
  // The upstream may be asked before the archive has the next segment.
  relay.expectLog(/ERROR: .* requested WAL segment [0-9A-F]{24} has already been removed/);
  await relay.start();
  const standby = await standbyOf(cluster, relay);
  await standby.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('streamed')`);
  await standby.waitForCatchup(primary);
  await relay.stop();

  // Nothing holds WAL for the relay: the primary lets go of what it needs.
  const needed = await primary.sql('SELECT pg_walfile_name(pg_current_wal_lsn())');
  for (let segment = 0; segment < 12; segment += 1) await fillSegment(primary, archive);
  await primary.sql('CHECKPOINT');
  await waitFor(`the primary to remove ${needed}`, async () => {
    await fillSegment(primary, archive);
    await primary.sql('CHECKPOINT');
    return !existsSync(join(primary.dataDirectory, 'pg_wal', needed));
  });

  await relay.start();
  await primary.sql(`INSERT INTO load (payload) VALUES ('only streamed')`);
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  const text = await relay.log.text();
  assert.match(text, new RegExp(`restored log file "${needed}" from archive[^]*started streaming`));
  await waitForValue('the state', 'streaming', async () => (await relay.status()).upstream.state);

  // It goes on when the primary is gone and comes back, too.
  await primary.restart();
  await primary.sql(`INSERT INTO load (payload) VALUES ('streamed again')`);
  await standby.waitForCatchup(primary);
});

test('a promotion that only the archive tells of leads everybody below over', async (t) => {
  const cluster = await archivedCluster(t);
  const { primary, archive } = cluster;
  const relay = await archiveRelay(cluster);
  await relay.start();
  const standby = await standbyOf(cluster, relay);
  await standby.start();
  const other = await standbyOf(cluster, primary, 'other');
  await other.start();
  await fillSegment(primary, archive);
  await primary.sql(`INSERT INTO load (payload) VALUES ('the last row of the old primary')`);
  for (const each of [standby, other]) await each.waitForCatchup(primary);
  const receiver = await standby.walReceiverPid();
  await primary.kill9();

  // The relay knows nothing of the new primary.
  await other.promote();
  await other.sql(`INSERT INTO load (payload) VALUES ('the first row of the new primary')`);
  const end = await fillSegment(other, archive);
  await relay.waitForWal(end);
  await standby.waitForReplay(end);
  assert.equal((await relay.status()).timeline, 2);
  assert.equal(await standby.dump(), await other.dump());
  assert.equal(await standby.walReceiverPid(), receiver);
  const history = await readFile(join(archive, '00000002.history'));
  assert.deepEqual(await readFile(join(relay.directory, 'pg_wal/00000002.history')), history);
  const [, switchPoint = ''] = history.toString().trim().split('\t');
  await relay.waitForLog(
    new RegExp(`timeline 1 has ended: going on with timeline 2 at ${switchPoint}`),
  );

  // Once it can be reached it is streamed from, and a start finds all of it.
  await relay.configure({ primary_conninfo: other.conninfo });
  await relay.restart();
  await other.sql(`INSERT INTO load (payload) VALUES ('streamed')`);
  await standby.waitForCatchup(other);
  assert.equal(await standby.dump(), await other.dump());
});

// PostgreSQL's own scenario: a standby of a promoted one, and the archive has its history only.
test('an attached server is fed by the archive; a node that leads reads it no more', async (t) => {
  const cluster = await archivedCluster(t);
  const { tree, primary, archive, restoreCommand } = cluster;
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: primary.conninfo,
    withPostgres: true,
    settings: { restore_command: restoreCommand, wal_retrieve_retry_interval: '200ms' },
  });
  await node.configure({ primary_conninfo: '' });
  await node.start();
  const standby = await standbyOf(cluster, node);
  await standby.start();
  const end = await fillSegment(primary, archive);
  for (const each of [node, standby]) await each.waitForReplay(end);
  assert.equal(await node.dump(), await primary.dump());

  // The primary is gone, and what is in the archive of it later is of another branch.
  await primary.sql(`INSERT INTO load (payload) VALUES ('never archived')`);
  const lost = await primary.sql('SELECT pg_walfile_name(pg_current_wal_lsn())');
  const receiver = await standby.walReceiverPid();
  const { code, stderr } = await node.cli(['promote', '-D', node.directory]);
  assert.equal(code, 0, stderr);
  await primary.sql('SELECT pg_switch_wal()');
  await waitFor(`${lost} in the archive`, () => existsSync(join(archive, lost)));
  await primary.stop();
  await node.sql(`INSERT INTO load (payload) VALUES ('the first row of the new primary')`);
  await standby.waitForCatchup(node);
  assert.equal(await standby.dump(), await node.dump());
  assert.equal(await standby.walReceiverPid(), receiver);
  assert.equal((await node.status()).timeline, 2);
  assert.doesNotMatch(await node.log.text(), new RegExp(`restored log file "${lost}"`));

  // With nobody to ask for it, its slot on the primary that is gone is in nobody's way.
  await node.stop();
  const removed = await node.cli(['remove', '-D', node.directory, '--yes']);
  assert.equal(removed.code, 0, removed.stderr);
});

test('with no more than the history in the archive the WAL is streamed', async (t) => {
  const cluster = await archivedCluster(t, { archives: '*.history' });
  const { tree, primary, archive } = cluster;
  const promoted = await standbyOf(cluster, primary, 'promoted');
  await promoted.start();
  await promoted.waitForCatchup(primary);
  const relay = await archiveRelay(cluster);
  const backup = await primary.backup(join(tree.path, 'backup_before'));
  await promoted.waitForCatchup(primary);
  await promoted.promote();
  await waitFor('the history in the archive', () => existsSync(join(archive, '00000002.history')));
  await promoted.sql(`INSERT INTO load (payload) VALUES ('the first row of the new primary')`);

  await relay.configure({ primary_conninfo: promoted.conninfo });
  await relay.start();
  const cascaded = await PostgresCluster.standby(tree, {
    name: 'cascaded',
    from: backup,
    upstreamConninfo: relay.conninfo,
  });
  await cascaded.start({ wait: false });
  await cascaded.waitUntilReady();
  await cascaded.waitForCatchup(promoted);
  assert.equal(await cascaded.dump(), await promoted.dump());
  assert.equal((await relay.status()).timeline, 2);
  await relay.waitForLog(/new target timeline is 2/);
});

test('an archive that fails loses nothing, and the log says how it failed', async (t) => {
  const cluster = await archivedCluster(t);
  const { tree, primary, archive, restoreCommand } = cluster;
  const relay = await archiveRelay(cluster);
  const standby = await standbyOf(cluster, relay);
  await relay.configure({ primary_conninfo: '' });
  await relay.start();
  await standby.start();
  relay.expectLog(/ERROR: .* could not restore file "[0-9A-F.history]+" from archive: /);
  relay.expectLog(/ERROR: .* archive file "[0-9A-F]{24}" has wrong size: 2097152 instead of/);
  relay.expectLog(/WARNING: .* WAL of [0-9A-F]{24} in the archive ends at /);

  const failing: [command: string, told: RegExp][] = [
    ['a_command_of_nobody %f', /from archive: command not found\n.*DETAIL: .*a_command_of_nobody/],
    ['kill -9 $$', /from archive: child process was terminated by signal 9: Killed/],
  ];
  for (const [command, told] of failing) {
    await goesOnAfter(command, told);
  }
  // What it may be for a while is no error: a file that is not there yet, or not all of it.
  const asked = join(tree.path, 'asked');
  await goesOnAfter(`echo %f >> ${asked}; exit 1`, isAskedFor);
  await goesOnAfter(`${restoreCommand} && truncate -s 1000 %p && echo %f >> ${asked}`, isAskedFor);
  const doubled = `case %f in *.history) exit 1;; esac; ${restoreCommand} && truncate -s 2M %p`;
  await goesOnAfter(doubled, /has wrong size: 2097152 instead of 1048576/);
  const corrupt = `${restoreCommand} && printf broken | dd of=%p bs=1 seek=100000 conv=notrunc`;
  await goesOnAfter(corrupt, /WAL of [0-9A-F]{24} in the archive ends at 0\/[0-9A-F]+\n.*DETAIL/);
  assert.equal(await standby.dump(), await primary.dump());

  /** Whether the relay has asked for the segment before `end` at least twice. */
  async function isAskedFor(end: Lsn): Promise<boolean> {
    const name = segmentName(timelineId(1), lsn(end - 1n), 1024 * 1024);
    return (await readFile(asked, 'utf8').catch(() => '')).split(name).length > 2;
  }

  /** A segment is archived while `command` is in force; what it says is told, then it is mended. */
  async function goesOnAfter(
    command: string,
    told: RegExp | ((end: Lsn) => Promise<boolean>),
  ): Promise<void> {
    const mark = await relay.log.mark();
    const before = parseLsn((await relay.status()).positions.served);
    await relay.configure({ restore_command: command });
    relay.reload();
    const end = await fillSegment(primary, archive);
    if (told instanceof RegExp) await relay.waitForLog(told, { since: mark });
    else await waitFor('the relay to ask', () => told(end));
    const { received, served } = (await relay.status()).positions;
    assert.ok(parseLsn(served) >= before && parseLsn(received) < end, `${received} ${command}`);
    await relay.configure({ restore_command: restoreCommand });
    relay.reload();
    await relay.waitForWal(end);
    await standby.waitForReplay(end);
  }
});

test('an archive with WAL of another history is refused where it differs', async (t) => {
  const cluster = await archivedCluster(t);
  const { primary, archive } = cluster;
  const relay = await archiveRelay(cluster);
  await relay.start();
  await fillSegment(primary, archive);
  await primary.sql(`INSERT INTO load (payload) VALUES ('streamed')`);
  await relay.waitForWal(await primary.currentLsn());
  await relay.stop();

  // A byte of what the relay has served already is another one.
  const name = await primary.sql('SELECT pg_walfile_name(pg_current_wal_lsn())');
  const end = await fillSegment(primary, archive);
  const path = join(archive, name);
  await copyFile(path, join(archive, 'good'));
  const content = await readFile(path);
  content.writeUInt8(content.readUInt8(100) ^ 1, 100);
  await writeFile(path, content);
  const differs = `WAL file "${name}" of the archive differs from this node's WAL at `;
  relay.expectLog(new RegExp(`ERROR: .* ${differs}`));
  await relay.configure({ primary_conninfo: '' });
  await relay.start();
  await relay.waitForLog(new RegExp(differs));
  const { received } = (await relay.status()).positions;
  assert.ok(parseLsn(received) < end);
  await rename(join(archive, 'good'), path);
  await relay.waitForWal(end);
});

test('a node with neither an upstream nor an archive says so', async (t) => {
  const cluster = await archivedCluster(t);
  const relay = await archiveRelay(cluster, { primary_conninfo: '', restore_command: '' });
  const message = 'specified neither "primary_conninfo" nor "restore_command"';
  relay.expectLog(new RegExp(`WARNING: .* ${message}`));
  await relay.start();
  await waitForValue('why', message, async () => (await relay.status()).upstream.reason);

  // A reload is enough.
  await relay.configure({ restore_command: cluster.restoreCommand });
  relay.reload();
  await relay.waitForWal(await fillSegment(cluster.primary, cluster.archive));
});

/** A standby made from a backup of the primary's; it is not started. */
async function standbyOf(
  { tree, primary }: ArchivedCluster,
  upstream: { conninfo: string },
  name = 'standby',
): Promise<PostgresCluster> {
  return PostgresCluster.standby(tree, {
    name,
    from: await primary.backup(join(tree.path, `backup_${name}`)),
    upstreamConninfo: upstream.conninfo,
  });
}
