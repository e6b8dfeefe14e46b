/**
 * A primary, a relay behind it and a standby behind that, which most tests of crashes begin with,
 * and what must hold between them whatever happened.
 *
 * Segments are of 1 MB and the primary keeps none but what slots ask for: who comes back asking
 * for WAL that it had once reported as flushed is refused.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Lsn, distance, formatLsn, maxLsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { parseSegmentName, segmentName, segmentStart } from '../../src/wal/segment.ts';
import { WalWalker } from '../../src/wal/walker.ts';
import { type LoadPrimary, loadPrimary } from './load-primary.ts';
import { PostgresCluster, type Settings } from './postgres-cluster.ts';
import type { TestDirectory } from './test-directory.ts';
import { waitFor } from './wait.ts';
import { digestStored, listSegments } from './wal-files.ts';
import { WalcadeNode } from './walcade-node.ts';

export const SEGMENT_BYTES = 1024 * 1024;
const ONE = timelineId(1);
const LOAD_AHEAD_BYTES_MAX = 6_000_000;

export interface RelayedCluster extends LoadPrimary {
  relay: WalcadeNode;
  standby: PostgresCluster;
}

export interface RelayedOptions {
  primarySettings?: Settings;
  relaySettings?: Record<string, string | number>;
  /** Gives what the relay connects to, if not the primary itself. */
  upstream?: (tree: TestDirectory, primary: PostgresCluster) => Promise<string>;
  /** Starts the relay in another way than as the program that it is. */
  startRelay?: (tree: TestDirectory, relay: WalcadeNode) => Promise<void>;
}

/** All three running, the standby made from the primary's backup and caught up. */
export async function relayedCluster(
  t: TestContext,
  { primarySettings = {}, relaySettings = {}, upstream, startRelay }: RelayedOptions = {},
): Promise<RelayedCluster> {
  const { tree, primary } = await loadPrimary(t, primarySettings);
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: (await upstream?.(tree, primary)) ?? primary.conninfo,
    settings: { wal_retrieve_retry_interval: '200ms', ...relaySettings },
  });
  await (startRelay === undefined ? relay.start() : startRelay(tree, relay));
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: relay.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  return { tree, primary, relay, standby };
}

/**
 * Writes small and large records until `stop`, which rejects with what stopped it before; never
 * far ahead of the relay, so that a test is about moments and not about amounts.
 */
export class Load {
  readonly #primary: PostgresCluster;
  readonly #slot: string;
  readonly #run: Promise<{ error?: unknown }>;
  #isStopping = false;

  /** `slot` is that of the node on the primary. */
  constructor(primary: PostgresCluster, { slot = 'relay' }: { slot?: string } = {}) {
    this.#primary = primary;
    this.#slot = slot;
    this.#run = this.#write().then(
      () => ({}),
      (error: unknown) => ({ error }),
    );
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    const outcome = await this.#run;
    if ('error' in outcome) throw outcome.error;
  }

  /** Stops a load whose primary was killed meanwhile. */
  async abandon(): Promise<void> {
    await this.stop().catch(() => {});
  }

  async #write(): Promise<void> {
    for (let round = 0; !this.#isStopping; round++) {
      await this.#primary.sql(
        `INSERT INTO load (payload) SELECT repeat(md5(i::text), 1 + i % 50)
         FROM generate_series(1, 200) i`,
      );
      if (round % 3 === 0) await this.#primary.sql(largeMessage(3_000_000));
      if (round % 10 === 9) await this.#primary.sql('CHECKPOINT');
      await waitFor('the relay to come near', () => this.#isStopping || this.#isRelayNear());
    }
  }

  async #isRelayNear(): Promise<boolean> {
    const isNear = await this.#primary.sql(
      `SELECT pg_current_wal_lsn() - restart_lsn < ${LOAD_AHEAD_BYTES_MAX}
       FROM pg_replication_slots WHERE slot_name = '${this.#slot}'`,
    );
    return isNear === 't';
  }
}

/** SQL that writes one record of `bytes` bytes, which no table shows. */
export function largeMessage(bytes: number): string {
  const count = Math.ceil(bytes / 13);
  return `SELECT pg_logical_emit_message(true, 'test', repeat('large record ', ${count}))`;
}

/** What the relay has reported as flushed, by the primary's view; undefined while not connected. */
export async function flushSeenBy(primary: PostgresCluster): Promise<Lsn | undefined> {
  const position = await primary.sql(
    `SELECT flush_lsn FROM pg_stat_replication WHERE application_name = 'relay'`,
  );
  return position === '' ? undefined : parseLsn(position);
}

/** The last flush that the relay has reported, once the primary has noticed that it is gone. */
export async function lastReported(primary: PostgresCluster): Promise<Lsn> {
  await primary.waitForSql(
    `SELECT active FROM pg_replication_slots WHERE slot_name = 'relay'`,
    'f',
  );
  const question = `SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'relay'`;
  return parseLsn(await primary.sql(question));
}

/** Where the relay has begun to stream since `mark` of its log. */
export async function streamStart(relay: WalcadeNode, mark: number): Promise<Lsn> {
  const started = /started streaming WAL from .* at ([0-9A-F]+\/[0-9A-F]+) on timeline/;
  const [, position = ''] = await relay.log.waitFor(started, { since: mark });
  return parseLsn(position);
}

/**
 * How far a start must find WAL that has reported `reported`: every complete record, and of an
 * unfinished one so much that the upstream need not have kept an earlier segment. The primary has
 * the segment of `reported` for as long as the slot stands there.
 */
export async function leastToFind(primary: PostgresCluster, reported: Lsn): Promise<Lsn> {
  const start = segmentStart(reported, SEGMENT_BYTES);
  if (start === reported) return start;
  const path = join(primary.dataDirectory, 'pg_wal', segmentName(ONE, start, SEGMENT_BYTES));
  const walker = new WalWalker({ segmentBytes: SEGMENT_BYTES, start, startsAt: 'segment' });
  walker.push((await readFile(path)).subarray(0, distance(start, reported)));
  return walker.proven;
}

/** Everybody has the primary's rows, and the relay its WAL, byte for byte. */
export async function assertEqual({ primary, relay, standby }: RelayedCluster): Promise<void> {
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  // A dump writes WAL itself, as it sets hint bits.
  const end = await primary.currentLsn();
  await relay.waitForWal(end);
  await assertSameWal(primary, relay, end);
  const verified = await relay.cli(['wal', 'verify', relay.directory]);
  assert.equal(verified.code, 0, verified.stdout);
}

/** What the relay and the primary both have of the WAL before `end` is the same. */
export async function assertSameWal(
  primary: PostgresCluster,
  relay: WalcadeNode,
  end: Lsn,
): Promise<void> {
  const oldest = async (directory: string): Promise<Lsn> =>
    parseSegmentName((await listSegments(directory))[0] ?? '', SEGMENT_BYTES).start;
  const start = maxLsn(await oldest(primary.dataDirectory), await oldest(relay.directory));
  assert.ok(start < end, `both have WAL from ${formatLsn(start)} to ${formatLsn(end)}`);
  const range = { timeline: ONE, start, end, segmentBytes: SEGMENT_BYTES };
  assert.equal(
    await digestStored(relay.directory, range),
    await digestStored(primary.dataDirectory, range),
  );
}
