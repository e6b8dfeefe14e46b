/**
 * Two PostgreSQL servers that are the primary in turn, each the standby of the other meanwhile:
 * every switchover is a promotion, with a timeline of its own. They have a table `number`. Below
 * them are nodes, whose base backups are to make standbys behind any of these nodes.
 */
import assert from 'node:assert/strict';
import { dirname, join } from 'node:path';
import type { TestContext } from 'node:test';
import type { PostgresBinaries } from './postgres-binaries.ts';
import { PostgresCluster } from './postgres-cluster.ts';
import type { SqlServer } from './sql-server.ts';
import { TestDirectory } from './test-directory.ts';
import { waitFor } from './wait.ts';
import { WalcadeNode } from './walcade-node.ts';

/** Hot standbys log it that come to ask a node before it has followed; a moment later it has. */
export const IS_BEHIND = /highest timeline \d+ of the primary is behind recovery timeline \d+/;

export class PrimaryPair {
  #primary: PostgresCluster;
  #standby: PostgresCluster;

  private constructor(primary: PostgresCluster, standby: PostgresCluster) {
    this.#primary = primary;
    this.#standby = standby;
  }

  /** Both running, on timeline 1. */
  static async start(
    tree: TestDirectory,
    options: { binaries?: PostgresBinaries | undefined; settings?: Record<string, string> } = {},
  ): Promise<PrimaryPair> {
    const primary = await PostgresCluster.init(tree, { name: 'east', ...options });
    await primary.start();
    await primary.sql('CREATE TABLE number (value int)');
    const standby = await PostgresCluster.standby(tree, {
      ...options,
      name: 'west',
      from: await primary.backup(join(tree.path, 'west-backup')),
      upstreamConninfo: primary.conninfo,
    });
    await standby.start();
    return new PrimaryPair(primary, standby);
  }

  /** The one that takes writes. */
  get primary(): PostgresCluster {
    return this.#primary;
  }

  get standby(): PostgresCluster {
    return this.#standby;
  }

  /** For a node that is to follow the one that takes writes, whichever that is. */
  get conninfo(): string {
    const ports = [this.#primary.port, this.#standby.port].join(',');
    return `host=127.0.0.1,127.0.0.1 port=${ports} user=postgres target_session_attrs=read-write`;
  }

  /** Rows, which make WAL that is of this timeline only. */
  async insert(count = 1000): Promise<void> {
    await this.#primary.sql(`INSERT INTO number SELECT generate_series(1, ${count})`);
  }

  /** The standby takes over; returns when both follow the new timeline. */
  async switchOver(): Promise<void> {
    const [left, next] = [this.#primary, this.#standby];
    await next.waitForCatchup(left);
    await waitFor(`${next.name} to stream`, () => next.walReceiverPid());
    await left.stop();
    await next.promote();
    this.#primary = next;
    this.#standby = left;
    await this.insert();
    await left.becomeStandby();
    await left.setUpstream(next.conninfo);
    await left.start();
  }
}

export interface PairWithNodes {
  tree: TestDirectory;
  pair: PrimaryPair;
  /** A relay and a node with a server below the pair, and a relay below that one. */
  nodes: readonly WalcadeNode[];
}

/** All running, of the tested major if no other programs are given. */
export async function pairWithNodes(
  t: TestContext,
  { binaries }: { binaries?: PostgresBinaries } = {},
): Promise<PairWithNodes> {
  const tree = await TestDirectory.create(t);
  const pair = await PrimaryPair.start(tree, { binaries });
  const start = async (name: string, upstream: string, withServer = false) => {
    const programs = binaries && ['--postgres-bin', dirname(binaries.postgres)];
    const node = await WalcadeNode.init(tree, {
      name,
      upstream,
      withPostgres: withServer && programs === undefined,
      args: withServer && programs !== undefined ? ['--with-postgres', ...programs] : [],
      settings: { wal_retrieve_retry_interval: '200ms' },
    });
    node.expectLog(IS_BEHIND);
    await node.start();
    return node;
  };
  const relay = await start('relay', pair.conninfo);
  const served = await start('served', pair.conninfo, true);
  const lower = await start('lower', served.conninfo);
  return { tree, pair, nodes: [relay, served, lower] };
}

/** A standby that is started on the backup streams from the node and gets what `primary` has. */
export async function assertStartsBehind(
  behind: WalcadeNode,
  {
    tree,
    directory,
    primary,
    binaries,
  }: {
    tree: TestDirectory;
    directory: string;
    primary: SqlServer;
    binaries?: PostgresBinaries | undefined;
  },
): Promise<void> {
  const standby = await PostgresCluster.standby(tree, {
    name: `standby${(standbys += 1)}`,
    from: directory,
    upstreamConninfo: behind.conninfo,
    binaries,
  });
  await primary.sql('INSERT INTO number SELECT generate_series(1, 100)');
  await standby.start();
  await standby.waitForCatchup(primary);
  assert.equal(await standby.dump(), await primary.dump());
  await standby.stop();
}

let standbys = 0;
