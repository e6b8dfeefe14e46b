/**
 * A primary, standbys and relays that a test puts below each other and promotes one by one, and
 * what must hold after each switch of timeline. Segments are of 1 MB unless the test says else.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Lsn, parseLsn, timelineId } from '../../src/wal/lsn.ts';
import { historyFileName, parseHistoryFile } from '../../src/wal/history.ts';
import { segmentStart } from '../../src/wal/segment.ts';
import type { PostgresBinaries } from './postgres-binaries.ts';
import { PostgresCluster, type Settings } from './postgres-cluster.ts';
import type { SqlServer } from './sql-server.ts';
import { TestDirectory } from './test-directory.ts';
import { waitForValue } from './wait.ts';
import { digestStored } from './wal-files.ts';
import { WalcadeNode } from './walcade-node.ts';

const MB = 1024 * 1024;

export interface TimelineTreeOptions {
  segmentMegabytes?: number;
  settings?: Settings;
  binaries?: PostgresBinaries | undefined;
}

/** What others are put below: a server or a node. */
interface Upstream {
  conninfo: string;
}

export class TimelineTree {
  readonly directory: TestDirectory;
  readonly primary: PostgresCluster;
  readonly segmentBytes: number;
  readonly #backup: string;

  private constructor(
    directory: TestDirectory,
    primary: PostgresCluster,
    { backup, segmentBytes }: { backup: string; segmentBytes: number },
  ) {
    this.directory = directory;
    this.primary = primary;
    this.segmentBytes = segmentBytes;
    this.#backup = backup;
  }

  /** A running primary with a table `load`, and its base backup. */
  static async create(
    t: TestContext,
    { segmentMegabytes = 1, settings = {}, binaries }: TimelineTreeOptions = {},
  ): Promise<TimelineTree> {
    const directory = await TestDirectory.create(t);
    const primary = await PostgresCluster.init(directory, {
      name: 'primary',
      segmentMegabytes,
      settings: { autovacuum: false, ...settings },
      binaries,
    });
    await primary.start();
    await primary.sql('CREATE TABLE load (id serial PRIMARY KEY, payload text)');
    const backup = await primary.backup(join(directory.path, 'backup'));
    const segmentBytes = segmentMegabytes * MB;
    return new TimelineTree(directory, primary, { backup, segmentBytes });
  }

  /** A running hot standby, made from the primary's first backup. */
  async standby(
    name: string,
    upstream: Upstream,
    settings: Settings = {},
  ): Promise<PostgresCluster> {
    const standby = await this.restored(name, upstream, settings);
    await standby.start();
    return standby;
  }

  /** The same, not started. */
  restored(name: string, upstream: Upstream, settings: Settings = {}): Promise<PostgresCluster> {
    return PostgresCluster.standby(this.directory, {
      name,
      from: this.#backup,
      upstreamConninfo: upstream.conninfo,
      settings,
      binaries: this.primary.binaries,
    });
  }

  /** A running relay. */
  async relay(name: string, upstream: Upstream): Promise<WalcadeNode> {
    const relay = await WalcadeNode.init(this.directory, {
      name,
      upstream: upstream.conninfo,
      settings: { wal_retrieve_retry_interval: '200ms' },
    });
    await relay.start();
    return relay;
  }

  /** The relay is on the timeline of `server` and has its WAL, byte for byte, to its end. */
  async assertFollows(
    relay: WalcadeNode,
    server: PostgresCluster,
    timeline: number,
  ): Promise<void> {
    const end = parseLsn(await server.sql('SELECT pg_current_wal_flush_lsn()'));
    // What it has of another timeline may be more than that.
    const current = async (): Promise<string> => {
      const { timeline: its, upstream } = await relay.status();
      return `${its} ${upstream.state}`;
    };
    await waitForValue(`the timeline of ${relay.name}`, `${timeline} streaming`, current);
    await relay.waitForWal(end);
    const start = segmentStart(await begin(server, timeline), this.segmentBytes);
    const range = { timeline: timelineId(timeline), start, end, segmentBytes: this.segmentBytes };
    assert.equal(
      await digestStored(relay.directory, range),
      await digestStored(server.dataDirectory, range),
    );
    const verified = await relay.cli(['wal', 'verify', relay.directory]);
    assert.equal(verified.code, 0, verified.stdout);
  }
}

/** Where `timeline` begins, as the history file of `server` says. */
export async function begin(server: PostgresCluster, timeline: number): Promise<Lsn> {
  const id = timelineId(timeline);
  const path = join(server.dataDirectory, 'pg_wal', historyFileName(id));
  const { entries } = parseHistoryFile(id, await readFile(path));
  return entries.at(-1)?.switchPoint ?? assert.fail(`${path} has no entry`);
}

/** Puts `count` small rows into the table. */
export async function insertRows(server: SqlServer, payload: string, count = 1): Promise<void> {
  await server.sql(
    `INSERT INTO load (payload) SELECT '${payload}' FROM generate_series(1, ${count})`,
  );
}

/** The process ids of all sessions through which the nodes and servers of a chain get their WAL. */
export async function sessionsOf(
  chain: readonly (WalcadeNode | PostgresCluster)[],
): Promise<Record<string, string>> {
  const sessions: Record<string, string> = {};
  for (const member of chain) {
    if (member instanceof PostgresCluster) {
      sessions[member.name] = `${await member.walReceiverPid()}`;
    } else {
      const { downstreams } = await member.status();
      sessions[member.name] = downstreams.map(({ pid }) => pid).join();
    }
  }
  return sessions;
}
