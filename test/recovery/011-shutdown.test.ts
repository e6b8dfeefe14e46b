/**
 * The end of a server that others read from: a primary's shutdown waits for what it has sent to be
 * confirmed, and a relay must neither hold it up nor miss its last record; a relay that stops
 * leaves its downstreams with all it had.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { decodeWalDataHeader } from '../../src/protocol/replication-messages.ts';
import { type Lsn, advance, lsn, maxLsn, parseLsn } from '../../src/wal/lsn.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { RawSession, describeHeard } from '../harness/raw-session.ts';
import { SqlClient } from '../harness/sql-client.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const STOP_MS_MAX = 10_000;
const WAL_DATA_HEADER_BYTES = 25;

for (const situation of ['idle', 'busy', 'in the middle of a large record'] as const) {
  test(`a primary's fast shutdown, ${situation}, ends and everybody has everything`, async (t) => {
    const { primary, relays, standbys } = await twoRelays(t);
    const load = situation === 'busy' ? startLoad(primary) : undefined;
    if (load !== undefined) await waitFor('some load', () => load.batches >= 5);
    if (situation === 'in the middle of a large record') {
      await leaveRecordUnflushed(primary);
      await waitFor('a record that is not whole yet', async () => {
        const { received, proven } = (await relays[0].status()).positions;
        return parseLsn(received) > advance(parseLsn(proven), 65_536);
      });
    }
    const startedMs = performance.now();
    await primary.stop('fast');
    const tookMs = performance.now() - startedMs;
    await load?.ended;
    assert.ok(tookMs < STOP_MS_MAX, `the shutdown took ${Math.round(tookMs)} ms`);
    t.diagnostic(`the shutdown took ${Math.round(tookMs)} ms`);

    // Everybody has the shutdown checkpoint, which is the last record.
    const checkpoint = await lastCheckpoint(primary);
    for (const relay of relays) {
      await relay.waitForWal(advance(checkpoint, 1));
      const { received, proven } = (await relay.status()).positions;
      assert.equal(proven, received, 'nothing of an unfinished record is left');
    }
    for (const standby of standbys) await standby.waitForReplay(advance(checkpoint, 1));
    const dumps = await Promise.all(standbys.map((standby) => standby.dump()));
    assert.equal(dumps[0], dumps[1]);

    // It comes back, and the cascade goes on.
    await primary.start();
    await primary.sql('INSERT INTO payload VALUES (0, NULL)');
    for (const standby of standbys) await standby.waitForCatchup(primary);
    assert.equal(await standbys[1].dump(), await primary.dump());
  });
}

test('a relay that stops leaves its downstreams with all it had, idle and busy', async (t) => {
  const { tree, primary, relays, standbys } = await twoRelays(t);
  const [relay] = relays;
  for (const situation of ['idle', 'busy'] as const) {
    const load = situation === 'busy' ? startLoad(primary) : undefined;
    const session = await RawSession.start(tree, relay.port);
    await waitFor('both downstreams to stream', async () => {
      const { downstreams } = await relay.status();
      return downstreams.filter(({ state }) => state === 'streaming').length === 2;
    });
    const { served } = (await relay.status()).positions;
    assert.deepEqual(await session.answer(`START_REPLICATION ${served}`), ['W']);
    const follower = follow(session, parseLsn(served));
    if (load !== undefined) await waitFor('some load', () => load.batches >= 5);
    const startedMs = performance.now();
    assert.equal(await relay.stop('fast'), 'exit status 0');
    const tookMs = performance.now() - startedMs;
    assert.ok(tookMs < STOP_MS_MAX, `the stop took ${Math.round(tookMs)} ms`);

    // Its last word is COPY 0 and no CopyDone, after all WAL that it had proven.
    assert.deepEqual((await follower).last, ['C COPY 0']);
    const stored = await storedEnd(relay);
    assert.equal((await follower).end, stored);
    await standbys[0].waitForReplay(stored);
    await load?.stop();
    await relay.start();
  }
  for (const standby of standbys) await standby.waitForCatchup(primary);
  assert.equal(await standbys[1].dump(), await primary.dump());
});

test('an idle replication session of a relay that stops is told why, with 57P01', async (t) => {
  const { tree, relays } = await twoRelays(t);
  const session = await RawSession.start(tree, relays[0].port);
  const stopped = relays[0].stop('fast');
  assert.deepEqual((await session.until()).map(describeHeard), [
    'E FATAL 57P01 terminating connection due to administrator command',
  ]);
  assert.equal(await stopped, 'exit status 0');
});

test('a dead downstream holds a stop for no longer than wal_sender_timeout', async (t) => {
  const { tree, primary, relays } = await twoRelays(t, { wal_sender_timeout: '3s' });
  const [relay] = relays;
  const session = await RawSession.start(tree, relay.port);
  const { served } = (await relay.status()).positions;
  assert.deepEqual(await session.answer(`START_REPLICATION ${served}`), ['W']);
  session.report(parseLsn(served));
  session.stopReading();
  await primary.sql(`INSERT INTO payload SELECT 0, md5(i::text) FROM generate_series(1, 1000) i`);
  await relay.waitForWal(await primary.currentLsn());
  const startedMs = performance.now();
  assert.equal(await relay.stop('fast'), 'exit status 0');
  const tookMs = performance.now() - startedMs;
  assert.ok(tookMs < 6_000, `the stop took ${Math.round(tookMs)} ms`);
});

interface TwoRelays {
  tree: TestDirectory;
  primary: PostgresCluster;
  /** The second one reads from the first. */
  relays: [WalcadeNode, WalcadeNode];
  /** One behind each relay. */
  standbys: [PostgresCluster, PostgresCluster];
}

async function twoRelays(
  t: TestContext,
  settings: Record<string, string> = {},
): Promise<TwoRelays> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE payload (batch int, value text)');
  const relay = async (name: string, upstream: string): Promise<WalcadeNode> => {
    const fast = { wal_retrieve_retry_interval: '100ms', ...settings };
    const node = await WalcadeNode.init(tree, { name, upstream, settings: fast });
    await node.start();
    return node;
  };
  const first = await relay('relay1', primary.conninfo);
  const second = await relay('relay2', first.conninfo);
  const from = await primary.backup(join(tree.path, 'backup'));
  const standby = async (name: string, node: WalcadeNode): Promise<PostgresCluster> => {
    const made = await PostgresCluster.standby(tree, {
      name,
      from,
      upstreamConninfo: node.conninfo,
    });
    await made.start();
    await made.waitForCatchup(primary);
    return made;
  };
  const standbys = [await standby('standby1', first), await standby('standby2', second)];
  return {
    tree,
    primary,
    relays: [first, second],
    standbys: standbys as [PostgresCluster, PostgresCluster],
  };
}

interface Load {
  readonly batches: number;
  /** Resolves when the server refused to take more, or after `stop`. */
  readonly ended: Promise<void>;
  stop(): Promise<void>;
}

/** Commits one batch after the other. */
function startLoad(primary: PostgresCluster): Load {
  const state = { batches: 0, isStopped: false };
  const run = async (): Promise<void> => {
    while (!state.isStopped) {
      await primary.sql(
        `INSERT INTO payload
         SELECT i, repeat(md5(random()::text), 30) FROM generate_series(1, 50) i`,
      );
      state.batches += 1;
    }
  };
  const ended = run().catch(() => {});
  return {
    get batches() {
      return state.batches;
    },
    ended,
    stop: async () => {
      state.isStopped = true;
      await ended;
    },
  };
}

/**
 * Writes a record of 6 MB that nobody commits: the WAL writer flushes it up to its last whole
 * page, and with that it stays until something else is flushed (XLogBackgroundFlush()).
 */
async function leaveRecordUnflushed(primary: PostgresCluster): Promise<void> {
  const client = await SqlClient.single(primary.socketDirectory, primary.port);
  await client.run('BEGIN');
  await client.run(`SELECT pg_logical_emit_message(false, 'large', repeat('x', 6000000))`);
}

/** Where the last checkpoint record is, by pg_control of a server that is shut down. */
async function lastCheckpoint({ dataDirectory }: PostgresCluster): Promise<Lsn> {
  const control = await readFile(join(dataDirectory, 'global', 'pg_control'));
  assert.equal(control.readUInt32LE(16), 1, 'the server was shut down in order');
  return lsn(control.readBigUInt64LE(32));
}

/** Reads a stream to its end, saying how far it is; gives that, and what came after the WAL. */
async function follow(session: RawSession, start: Lsn): Promise<{ end: Lsn; last: string[] }> {
  let end = start;
  session.report(end);
  const last: string[] = [];
  for (;;) {
    const message = await session.next();
    if (message === undefined) return { end, last };
    const { type, body } = message;
    if (type !== 'd') last.push(describeHeard(message));
    else if (body[0] === 0x77) {
      const { start: from } = decodeWalDataHeader(body);
      assert.equal(from, end);
      end = maxLsn(end, advance(from, body.length - WAL_DATA_HEADER_BYTES));
      session.report(end);
    } else session.report(end);
  }
}

/** Where the proven WAL of a node that is stopped ends, by its own tool. */
async function storedEnd(node: WalcadeNode): Promise<Lsn> {
  const { stdout } = await node.cli(['wal', 'verify', join(node.directory, 'pg_wal')]);
  const end = [...stdout.matchAll(/proven to ([0-9A-F]+\/[0-9A-F]+)/g)].at(-1)?.[1];
  return parseLsn(end ?? '');
}
