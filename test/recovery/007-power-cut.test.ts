/**
 * Power cuts: the relay runs on a disk that loses, torn in sectors, what was not synced.
 */
import assert from 'node:assert/strict';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { systemDisk } from '../../src/base/disk.ts';
import { readControlData } from '../../src/store/control-file.ts';
import { advance, formatLsn, maxLsn, parseLsn } from '../../src/wal/lsn.ts';
import { segmentName, segmentStart } from '../../src/wal/segment.ts';
import { InProcessNode } from '../harness/in-process-node.ts';
import {
  Load,
  SEGMENT_BYTES,
  assertEqual,
  flushSeenBy,
  lastReported,
  leastToFind,
  relayedCluster,
} from '../harness/relayed-cluster.ts';
import { TestDisk } from '../harness/test-disk.ts';
import { waitFor } from '../harness/wait.ts';
import { type RandomNumber, seededRandom } from '../harness/wal-recutter.ts';

const CUTS = 10;
const BYTES_BETWEEN_CUTS_MAX = 5_000_000;
const SYNC_MS_MAX = 8;

test('what a relay has reported as flushed is there after a power cut', async (t) => {
  const seed = Date.now() % 1_000_000;
  t.diagnostic(`seed ${seed}`);
  const random = seededRandom(seed);
  let node: InProcessNode | undefined;
  let disk = new TestDisk();
  const cluster = await relayedCluster(t, {
    startRelay: async (tree, { directory }) => {
      disk = withSlowSyncs(await TestDisk.load(directory), random);
      node = new InProcessNode(tree, directory);
      await node.start({ disk });
    },
  });
  const { primary, relay, standby } = cluster;
  assert.ok(node);

  const load = new Load(primary);
  for (let cut = 1; cut <= CUTS; cut++) {
    const connected = await waitFor('the relay to report', () => flushSeenBy(primary));
    const target = advance(connected, Math.floor(random() * BYTES_BETWEEN_CUTS_MAX));
    const seen = await waitFor('the relay to report more', async () => {
      const flushed = await flushSeenBy(primary);
      return flushed !== undefined && flushed >= target ? flushed : undefined;
    });
    await node.cutPower();
    const reported = maxLsn(seen, await lastReported(primary));
    const least = await leastToFind(primary, reported);

    // Whatever else is found on the disk, what was reported is found, and the relay goes on.
    disk = withSlowSyncs(
      disk.afterPowerCut(() => random() < 0.5),
      random,
    );
    const mark = node.mark();
    await node.start({ disk });
    const started = await node.waitForLog(/started streaming WAL/, mark);
    const [, position = ''] = /at (\S+) on timeline/.exec(started.message) ?? [];
    const found = parseLsn(position);
    assert.ok(found >= least, `went on at ${formatLsn(found)}, reported ${formatLsn(reported)}`);
  }
  await load.stop();
  await standby.waitForCatchup(primary);

  // The program itself goes on with what has become of the disk.
  await node.stop();
  await disk.save();
  await relay.start();
  await assertEqual(cluster);
});

test('a disk that has not kept what it had confirmed stops a start, loudly', async (t) => {
  const { primary, relay } = await relayedCluster(t);
  await primary.sql(`INSERT INTO load (payload) VALUES (repeat('a row ', 100))`);
  await relay.waitForWal(await primary.currentLsn());
  // Until its first checkpoint a node walks from its store's beginning, and has confirmed nothing.
  await waitFor('the control file to name a record', async () => {
    const { walk, flushed } = await readControlData(systemDisk, relay.directory);
    return walk.startsAt === 'record' && flushed > walk.from;
  });
  await relay.kill9();

  // A byte of the record that the next start walks from is not what it was.
  const { walk, timeline } = await readControlData(systemDisk, relay.directory);
  const name = segmentName(timeline, walk.from, SEGMENT_BYTES);
  const offset = Number(walk.from - segmentStart(walk.from, SEGMENT_BYTES)) + 20;
  const file = await open(join(relay.directory, 'pg_wal', name), 'r+');
  const byte = Buffer.alloc(1);
  await file.read(byte, 0, 1, offset);
  await file.write(Buffer.of(byte.readUInt8(0) ^ 1), 0, 1, offset);
  await file.close();

  relay.expectLog(/FATAL: {2}acknowledged WAL is lost between/);
  const mark = await relay.log.mark();
  await relay.start({ wait: false });
  assert.equal(await relay.waitForExit(), 'exit status 1');
  assert.match(
    await relay.log.since(mark),
    new RegExp(
      'FATAL: {2}acknowledged WAL is lost between [0-9A-F]+/[0-9A-F]+ and [0-9A-F]+/[0-9A-F]+\n' +
        '.*DETAIL: {2}Reading it gave: .*\n.*HINT: ',
    ),
  );
});

/** A sync takes a while, as on a real disk: there is always something that was not synced. */
function withSlowSyncs(disk: TestDisk, random: RandomNumber): TestDisk {
  disk.onOperation = ({ kind }) => {
    if (kind === 'sync' || kind === 'sync-directory') return sleep(random() * SYNC_MS_MAX);
    return undefined;
  };
  return disk;
}
