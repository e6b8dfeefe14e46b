/**
 * What becomes of a relay when the servers around it, or the network between them, break: it
 * connects again by itself, loses nothing, and hands no standby a record it cannot read.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor, waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

/** What a standby logs when it was handed a record in pieces that do not fit. */
const BROKEN_WAL = /incorrect resource manager data checksum/;

const SHORT_TIMEOUTS = { wal_receiver_timeout: '3s', wal_sender_timeout: '3s' };

test('a relay and its standby go on after the primary restarts and after it crashes', async (t) => {
  const { primary, relay, standby } = await cascade(t);
  for (const stop of ['fast', 'immediate', 'kill'] as const) {
    const load = startLoad(primary);
    await waitForValue(`rows before the stop (${stop})`, true, () => load.batches >= 10);
    if (stop === 'kill') await primary.kill9();
    else await primary.stop(stop);
    await load.stop();
    await waitForValue('the relay to notice', true, async () => {
      return (await relay.status()).upstream.state !== 'streaming';
    });
    await primary.start();
    await primary.sql('INSERT INTO payload SELECT 0, md5(i::text) FROM generate_series(1, 100) i');
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
  }
  await assertNoBrokenWal(standby);
});

for (const place of ['primary and relay', 'relay and standby'] as const) {
  test(`rows arrive through a network between ${place} that chops and delays`, async (t) => {
    const { primary, standby, network } = await cascade(t, { networkBetween: place });
    network.setFaults({ pieces: 'random', delayMs: 5 });
    const load = startLoad(primary);
    await waitForValue('some load', true, () => load.batches >= 20);
    await load.stop();
    await standby.waitForCatchup(primary);

    // Byte by byte, a new connection included; a standby starts again with its segment.
    network.setFaults({ pieces: 'whole', delayMs: 0 });
    await primary.sql('SELECT pg_switch_wal()');
    await primary.sql('INSERT INTO payload VALUES (0, NULL)');
    await standby.waitForCatchup(primary);
    network.setFaults({ pieces: 'single-bytes' });
    network.resetAll();
    await primary.sql('INSERT INTO payload SELECT 0, md5(i::text) FROM generate_series(1, 200) i');
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    await assertNoBrokenWal(standby);
  });

  test(`rows arrive though connections between ${place} are reset under load`, async (t) => {
    const { primary, standby, network } = await cascade(t, { networkBetween: place });
    const load = startLoad(primary);
    for (let reset = 0; reset < 5; reset += 1) {
      const { connectionCount } = network;
      const { batches } = load;
      network.resetAll();
      await waitForValue('a new connection', true, () => network.connectionCount > connectionCount);
      await waitForValue('more load', true, () => load.batches >= batches + 3);
    }
    await load.stop();
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    await assertNoBrokenWal(standby);
  });

  test(`a cut between ${place} that nobody is told of ends by the timeouts`, async (t) => {
    const { primary, relay, standby, network } = await cascade(t, {
      networkBetween: place,
      settings: SHORT_TIMEOUTS,
    });
    const mark = await relay.log.mark();
    network.cutSilently();
    await primary.sql('INSERT INTO payload SELECT 0, md5(i::text) FROM generate_series(1, 100) i');

    // The side of the relay gives up by itself.
    await relay.waitForLog(
      place === 'primary and relay'
        ? /terminating WAL receiver due to timeout/
        : /terminating WAL sender session due to replication timeout/,
      { since: mark },
    );
    if (place === 'relay and standby') {
      await waitForValue('the dead session to be gone', 0, async () => {
        const { downstreams } = await relay.status();
        return downstreams.filter(({ state }) => state !== 'startup').length;
      });
    }
    network.mend();
    await standby.waitForCatchup(primary);
    assert.equal(await standby.dump(), await primary.dump());
    await assertNoBrokenWal(standby);
  });
}

test('a relay cut off while it connects connects again', async (t) => {
  const { primary, relay, standby, network } = await cascade(t, {
    networkBetween: 'primary and relay',
    settings: SHORT_TIMEOUTS,
  });
  // At two bytes a millisecond: the cut falls after the startup packet and before the stream.
  await relay.stop();
  network.setFaults({ bytesPerSecond: 2_000 });
  const { connectionCount } = network;
  await relay.start();
  await waitFor('a connection', () => network.connectionCount > connectionCount);
  await waitForValue('the relay to be let in', '1', () =>
    primary.sql(`SELECT count(*) FROM pg_stat_replication WHERE application_name = 'relay'`),
  );
  network.cutSilently();
  network.setFaults({ bytesPerSecond: 0 });
  await relay.waitForLog(/terminating WAL receiver due to timeout|failed: timeout expired/);
  network.mend();
  await primary.sql("INSERT INTO payload VALUES (0, 'after the cut')");
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
});

interface Cascade {
  primary: PostgresCluster;
  relay: WalcadeNode;
  standby: PostgresCluster;
  network: FaultyNetwork;
}

/** A primary, a relay and a standby that streams, with a network to break at one place. */
async function cascade(
  t: TestContext,
  {
    networkBetween = 'primary and relay',
    settings = {},
  }: { networkBetween?: string; settings?: Record<string, string> } = {},
): Promise<Cascade> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, {
    name: 'primary',
    settings,
  });
  await primary.start();
  await primary.sql('CREATE TABLE payload (batch int, value text)');
  const isAbove = networkBetween === 'primary and relay';
  const above = isAbove ? await FaultyNetwork.between(tree, primary.port) : undefined;
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: `${above?.conninfo ?? primary.conninfo} connect_timeout=5`,
    args: ['--no-slot'],
    settings: { wal_retrieve_retry_interval: '100ms', ...settings },
  });
  await relay.start();
  const network = above ?? (await FaultyNetwork.between(tree, relay.port));
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: isAbove ? relay.conninfo : network.conninfo,
    settings,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  return { primary, relay, standby, network };
}

/** Commits rows of all sizes, one batch after the other, until it is stopped or refused. */
function startLoad(primary: PostgresCluster): { readonly batches: number; stop(): Promise<void> } {
  const load = { batches: 0, isStopped: false };
  const run = async (): Promise<void> => {
    while (!load.isStopped) {
      await primary.sql(
        `INSERT INTO payload
         SELECT ${load.batches}, repeat(md5(random()::text), 1 + (random() * 100)::int)
           FROM generate_series(1, 50)`,
      );
      load.batches += 1;
    }
  };
  const running = run().catch(() => {});
  return {
    get batches() {
      return load.batches;
    },
    stop: async () => {
      load.isStopped = true;
      await running;
    },
  };
}

async function assertNoBrokenWal(standby: PostgresCluster): Promise<void> {
  assert.doesNotMatch(await standby.log.text(), BROKEN_WAL);
}
