/**
 * Crashes: the relay killed at random moments, and its primary within a record.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { advance, formatLsn, maxLsn, parseLsn } from '../../src/wal/lsn.ts';
import {
  Load,
  assertEqual,
  flushSeenBy,
  largeMessage,
  leastToFind,
  lastReported,
  relayedCluster,
  streamStart,
} from '../harness/relayed-cluster.ts';
import { waitFor } from '../harness/wait.ts';
import { seededRandom } from '../harness/wal-recutter.ts';

/** Where WAL simply ends a standby says so in other words. */
const BROKEN_RECORD = /incorrect resource manager data checksum|PANIC/;

const KILLS = 20;
/** How much WAL may pass between a start and the next kill. */
const BYTES_BETWEEN_KILLS_MAX = 5_000_000;

test('a relay killed at 20 random moments under load has kept all that it reported', async (t) => {
  const seed = Date.now() % 1_000_000;
  t.diagnostic(`seed ${seed}`);
  const random = seededRandom(seed);
  const cluster = await relayedCluster(t);
  const { primary, relay, standby } = cluster;

  const load = new Load(primary);
  for (let kill = 1; kill <= KILLS; kill++) {
    // It is killed when it has reported some more, be it within a record of 3 MB.
    const connected = await waitFor('the relay to report', () => flushSeenBy(primary));
    const target = advance(connected, Math.floor(random() * BYTES_BETWEEN_KILLS_MAX));
    const seen = await waitFor('the relay to report more', async () => {
      const flushed = await flushSeenBy(primary);
      return flushed !== undefined && flushed >= target ? flushed : undefined;
    });
    await relay.kill9();
    const reported = maxLsn(seen, await lastReported(primary));

    // The next start finds it and goes on.
    const least = await leastToFind(primary, reported);
    const mark = await relay.log.mark();
    await relay.start();
    const found = await streamStart(relay, mark);
    assert.ok(found >= least, `went on at ${formatLsn(found)}, reported ${formatLsn(reported)}`);
  }
  await load.stop();

  // The standby went on each time, never saw a broken record, and has everything.
  await assertEqual(cluster);
  assert.doesNotMatch(await standby.log.text(), BROKEN_RECORD);
});

test('a primary killed within a record of 6 MB goes on, and so do relay and standby', async (t) => {
  const cluster = await relayedCluster(t);
  const { primary, relay, standby } = cluster;
  for (let crash = 1; crash <= 3; crash++) {
    // Large records are written until the relay has received a part of one and not the rest.
    const load = writeLargeRecords();
    const { received, proven } = await waitFor('an unfinished record on the relay', async () => {
      const { positions } = await relay.status();
      const unfinished = parseLsn(positions.received) - parseLsn(positions.proven);
      return unfinished > 100_000n ? positions : undefined;
    });
    assert.ok(parseLsn(received) > parseLsn(proven));
    await primary.kill9();
    await load;
    t.diagnostic(`crash ${crash}: received ${received}, proven ${proven}`);
    await primary.start();
    await primary.sql(`INSERT INTO load (payload) VALUES ('after crash ${crash}')`);
    await assertEqual(cluster);
  }
  assert.doesNotMatch(await standby.log.text(), BROKEN_RECORD);

  async function writeLargeRecords(): Promise<void> {
    try {
      for (;;) await primary.sql(largeMessage(6_000_000));
    } catch {
      // The primary is gone: that is what the test is about.
    }
  }
});
