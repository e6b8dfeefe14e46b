/**
 * Records of many megabytes, beside small ones and over several segments: a standby below a relay
 * gets them whole, also when the network above the relay cuts messages where no server does.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { type Lsn, formatLsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { digestStored } from '../harness/wal-files.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const MB = 1024 * 1024;
/** What a standby logs when it is sent the wrong bytes, or has to begin again. */
const COMPLAINTS = /incorrect|invalid|unexpected|contrecord|terminating walreceiver|ERROR|FATAL/;
/** A row of about 2 MB that does not compress. */
const BIG_ROW = `INSERT INTO payload
  SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 65536)`;

test('a standby lives through load behind a relay whose upstream messages are cut', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await createPayload(primary);
  const network = await FaultyNetwork.between(tree, primary.port, { onCopyData: 'recut' });
  t.diagnostic(`the network's seed is ${network.seed}`);
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: network.conninfo });
  await relay.start();
  const standby = await standbyBelow(tree, primary, relay);
  await standby.waitForCatchup(primary);
  const pid = await standby.walReceiverPid();
  const connections = network.connectionCount;

  // Small transactions all the while, from 10 bytes to some pages; between them large records.
  const small = async (): Promise<void> => {
    for (let round = 0; round < 8; round += 1) {
      await primary.sql(
        `DO $$ BEGIN
           FOR i IN 1..60 LOOP
             INSERT INTO payload VALUES (repeat(md5(random()::text), 1 + i * 5));
             COMMIT;
             PERFORM pg_sleep(0.002);
           END LOOP;
         END $$`,
      );
    }
  };
  const large = async (): Promise<void> => {
    for (let round = 1; round <= 5; round += 1) {
      await primary.sql(emitMessage(round * MB));
      await primary.sql(BIG_ROW);
      await primary.sql(emitMessage(3 * MB + round));
    }
  };
  await Promise.all([small(), large()]);

  // One connection and one stream from the first byte to the last, and the same data.
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  assert.equal(await standby.walReceiverPid(), pid);
  assert.equal(network.connectionCount, connections);
  assert.doesNotMatch(await standby.log.text(), COMPLAINTS);
  await expectSameBytes(primary, relay, 16 * MB);
});

for (const { segmentMegabytes, recordBytes } of [
  { segmentMegabytes: 1, recordBytes: [5 * MB + 123, 1 * MB, 3 * MB - 8, 2 * MB] },
  { segmentMegabytes: 64, recordBytes: [80 * MB, 70 * MB + 1] },
]) {
  test(`records over segments of ${segmentMegabytes} MB reach a standby whole`, async (t) => {
    const tree = await TestDirectory.create(t);
    const primary = await PostgresCluster.init(tree, {
      name: 'primary',
      segmentMegabytes,
      settings: { max_wal_size: '1GB', wal_keep_size: '512MB' },
    });
    await primary.start();
    await createPayload(primary);
    const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
    await relay.start();
    const lower = await WalcadeNode.init(tree, { name: 'lower', upstream: relay.conninfo });
    await lower.start();
    const standby = await standbyBelow(tree, primary, lower);
    await standby.waitForCatchup(primary);
    const pid = await standby.walReceiverPid();

    for (const bytes of recordBytes) {
      await primary.sql(emitMessage(bytes));
      await primary.sql(BIG_ROW);
    }
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    assert.equal(await standby.walReceiverPid(), pid);
    assert.doesNotMatch(await standby.log.text(), COMPLAINTS);
    for (const node of [relay, lower]) {
      await expectSameBytes(primary, node, segmentMegabytes * MB);
      const { code, stdout } = await node.cli(['wal', 'verify', node.directory]);
      assert.equal(code, 0, stdout);
    }
  });
}

/** The statement that writes one WAL record of a little more than `bytes`. */
function emitMessage(bytes: number): string {
  const words = Math.ceil(bytes / 8);
  return `SELECT pg_logical_emit_message(true, 'large', repeat('walcade ', ${words}))`;
}

async function createPayload(primary: PostgresCluster): Promise<void> {
  await primary.sql('CREATE TABLE payload (value text)');
  await primary.sql('ALTER TABLE payload ALTER value SET STORAGE EXTERNAL');
}

async function standbyBelow(
  tree: TestDirectory,
  primary: PostgresCluster,
  node: WalcadeNode,
): Promise<PostgresCluster> {
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: node.conninfo,
  });
  await standby.start();
  return standby;
}

async function expectSameBytes(
  primary: PostgresCluster,
  node: WalcadeNode,
  segmentBytes: number,
): Promise<void> {
  const end: Lsn = parseLsn(await primary.sql('SELECT pg_current_wal_flush_lsn()'));
  await node.waitForWal(end);
  const start = parseLsn((await node.status()).positions.oldest);
  const range = { timeline: timelineId(1), start, end, segmentBytes };
  assert.equal(
    await digestStored(node.directory, range),
    await digestStored(primary.dataDirectory, range),
    `WAL from ${formatLsn(start)} to ${formatLsn(end)} of ${node.name} is the primary's`,
  );
}
