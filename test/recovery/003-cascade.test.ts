/**
 * Many nodes: a chain of relays, and one relay with many downstreams. Everybody gets the same
 * bytes, and they are the primary's.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type Lsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { SEGMENT_BYTES_DEFAULT, segmentStart } from '../../src/wal/segment.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalClient } from '../harness/wal-client.ts';
import { digestStored, listSegments } from '../harness/wal-files.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';
import { receiveWithTool } from '../harness/pg-receivewal.ts';

const CHAIN_LENGTH = 5;
const STANDBYS = 3;
const RECEIVERS = 17;
const segmentBytes = SEGMENT_BYTES_DEFAULT;

test('a standby below a chain of five relays has what the primary has', async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  const chain: WalcadeNode[] = [];
  for (let depth = 1; depth <= CHAIN_LENGTH; depth += 1) {
    const upstream = (chain.at(-1) ?? primary).conninfo;
    const relay = await WalcadeNode.init(tree, { name: `relay${depth}`, upstream });
    await relay.start();
    chain.push(relay);
  }
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: backup,
    upstreamConninfo: (chain.at(-1) as WalcadeNode).conninfo,
  });
  await standby.start();

  // Transactions of all sizes pass down the chain.
  await primary.sql('INSERT INTO number SELECT generate_series(1, 100000)');
  for (let value = 0; value < 50; value += 1) {
    await primary.sql(`INSERT INTO number VALUES (${-value})`);
  }
  await primary.sql('DELETE FROM number WHERE value % 7 = 0');
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());

  // Every relay has durably what the primary has, and knows it.
  const end = await primary.currentLsn();
  for (const relay of chain) await relay.waitForWal(end);
  const start = parseLsn((await (chain.at(-1) as WalcadeNode).status()).positions.oldest);
  const range = { timeline: timelineId(1), start, end, segmentBytes };
  const original = await digestStored(primary.dataDirectory, range);
  for (const relay of chain) assert.equal(await digestStored(relay.directory, range), original);
});

test('twenty downstreams of one relay all get the bytes of the primary', async (t) => {
  const { tree, primary, backup } = await primaryWithBackup(t);
  const start = segmentStart(await primary.currentLsn(), segmentBytes);
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await relay.start();
  const standbys = await Promise.all(
    Array.from({ length: STANDBYS }, (_, index) =>
      PostgresCluster.standby(tree, {
        name: `standby${index + 1}`,
        from: backup,
        upstreamConninfo: relay.conninfo,
      }),
    ),
  );
  await Promise.all(standbys.map((standby) => standby.start()));

  // Half of the receivers are there from the start; the others come when all has been written.
  const end = await writeSegments(primary, 3);
  const range = { timeline: timelineId(1), start, end, segmentBytes };
  const receivers = await Promise.all(
    Array.from({ length: RECEIVERS }, (_, index) =>
      WalClient.connect(tree, relay.conninfo, { name: `receiver${index + 1}` }),
    ),
  );
  const early = receivers.slice(0, 8).map((receiver) => receiver.receive({ start, end }));
  await relay.waitForWal(end);
  const late = receivers.slice(8).map((receiver) => receiver.receive({ start, end }));
  const original = await digestStored(primary.dataDirectory, range);
  for (const digest of await Promise.all([...early, ...late])) assert.equal(digest, original);
  assert.equal((await relay.status()).downstreams.length, STANDBYS + RECEIVERS);
  for (const standby of standbys) {
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    assert.doesNotMatch(await standby.log.text(), /incorrect|invalid|terminating walreceiver/);
  }
});

test("a relay's pg_wal is the primary's, byte for byte", async (t) => {
  const tools = await findTools(['pg_receivewal']);
  t.diagnostic(
    tools === undefined
      ? 'this machine has no pg_receivewal: compared with the primary only'
      : `compared with pg_receivewal of PostgreSQL ${tools.major} too`,
  );
  const { tree, primary } = await primaryWithBackup(t, tools?.binaries);
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await relay.start();
  const first = segmentStart(await primary.currentLsn(), segmentBytes);
  const tool = await receiveWithTool(tree, tools, { conninfo: primary.conninfo, name: 'direct' });
  const below = await receiveWithTool(tree, tools, { conninfo: relay.conninfo, name: 'below' });

  // Segments that are full, one that ends by a switch, and one that has only begun.
  await writeSegments(primary, 2);
  await primary.sql('SELECT pg_switch_wal()');
  await primary.sql('INSERT INTO number VALUES (1)');
  const end = parseLsn(await primary.sql('SELECT pg_current_wal_flush_lsn()'));
  await relay.waitForWal(end);
  const oldest = parseLsn((await relay.status()).positions.oldest);
  assert.ok(oldest <= first);
  const range = { timeline: timelineId(1), start: oldest, end, segmentBytes };
  assert.equal(
    await digestStored(relay.directory, range),
    await digestStored(primary.dataDirectory, range),
  );

  // Complete segments are equal as files, and so are those of pg_receivewal, wherever it asks.
  const complete = (await listSegments(relay.directory)).slice(0, -1);
  assert.ok(complete.length >= 3, `${complete.length} complete segments`);
  for (const receiver of [tool, below]) {
    if (receiver === undefined) continue;
    await waitFor(`${receiver.name} to have every segment`, async () =>
      (await receiver.segments()).includes(complete.at(-1) as string),
    );
    for (const name of await receiver.segments()) {
      const [kept, stored] = [receiver.read(name), receiver.readFrom(relay.directory, name)];
      assert.ok((await kept).equals(await stored), `${name} of ${receiver.name} is the relay's`);
    }
    assert.ok((await receiver.segments()).length >= 3);
  }
});

/** Fills `count` segments, and gives where WAL then ends. */
async function writeSegments(primary: PostgresCluster, count: number): Promise<Lsn> {
  const enough = (await primary.currentLsn()) + BigInt(count * segmentBytes);
  while ((await primary.currentLsn()) < enough) {
    await primary.sql('INSERT INTO number SELECT generate_series(1, 40000)');
  }
  return parseLsn(await primary.sql('SELECT pg_current_wal_flush_lsn()'));
}

/** A running primary with a table `number`, and a base backup of it. */
async function primaryWithBackup(
  t: TestContext,
  binaries?: PostgresCluster['binaries'],
): Promise<{ tree: TestDirectory; primary: PostgresCluster; backup: string }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary', binaries });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  return { tree, primary, backup: await primary.backup(join(tree.path, 'backup')) };
}
