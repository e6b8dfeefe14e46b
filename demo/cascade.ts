/**
 * The servers of the demo: a PostgreSQL primary, two relays and three standbys, each on a port
 * of its own and all in one directory. They live until the directory is removed.
 */
import { connect } from 'node:net';
import { join } from 'node:path';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { waitFor } from '../test/harness/wait.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import type { ServerView } from './tree-view.ts';

export const SERVER_NAMES = ['primary', 'relay', 'standby1', 'standby2', 'relay2', 'standby3'];

type Name = 'primary' | 'relay' | 'standby1' | 'standby2' | 'relay2' | 'standby3';

/** The port of each server: `basePort` for the primary, then one more for each. */
export function portOf(name: Name, basePort: number): number {
  return basePort + SERVER_NAMES.indexOf(name);
}

/** Those of the demo's ports, from `basePort` on, on which somebody listens. */
export async function takenPorts(basePort: number): Promise<number[]> {
  const ports = SERVER_NAMES.map((_, index) => basePort + index);
  const answers = await Promise.all(ports.map(isTaken));
  return ports.filter((_, index) => answers[index]);
}

/** Somebody listens if a connection is accepted, and may if it is neither accepted nor refused. */
function isTaken(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect({ host: '127.0.0.1', port });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code !== 'ECONNREFUSED'));
  });
}

/** A row of pg_stat_replication, or its like in the status of a node. */
interface Downstream {
  applicationName: string;
  state: string;
  flush: string | null;
  replay: string | null;
}

export class Cascade {
  readonly #tree: TestDirectory;
  readonly #basePort: number;
  primary!: PostgresCluster;
  relay!: WalcadeNode;
  relay2!: WalcadeNode;
  standbys: PostgresCluster[] = [];

  constructor(tree: TestDirectory, { basePort }: { basePort: number }) {
    this.#tree = tree;
    this.#basePort = basePort;
  }

  async startPrimary(): Promise<void> {
    this.primary = await PostgresCluster.init(this.#tree, {
      name: 'primary',
      port: this.#port('primary'),
      settings: { cluster_name: 'primary' },
    });
    await this.primary.start();
  }

  async startRelay(): Promise<void> {
    this.relay = await this.#startNode('relay', this.primary.conninfo);
  }

  async startRelay2(): Promise<void> {
    this.relay2 = await this.#startNode('relay2', this.relay.conninfo);
  }

  /** Two standbys below the first relay and one below the second, all from one base backup. */
  async startStandbys(): Promise<void> {
    const backup = await this.primary.backup(join(this.#tree.path, 'backup'));
    const wanted = [
      { name: 'standby1', upstream: this.relay },
      { name: 'standby2', upstream: this.relay },
      { name: 'standby3', upstream: this.relay2 },
    ] as const;
    this.standbys = await Promise.all(
      wanted.map(async ({ name, upstream }) => {
        const standby = await PostgresCluster.standby(this.#tree, {
          name,
          from: backup,
          upstreamConninfo: upstream.conninfo,
          port: this.#port(name),
          settings: { cluster_name: name, wal_receiver_status_interval: '1s' },
        });
        await standby.start();
        return standby;
      }),
    );
    await Promise.all(this.standbys.map((standby) => standby.waitForCatchup(this.primary)));
  }

  /** Asks `sql` of each standby until it answers `expected`; gives how long each took, in ms. */
  async timeUntil(sql: string, expected: string, startedMs: number): Promise<Map<string, number>> {
    const times = await Promise.all(
      this.standbys.map(async (standby): Promise<[string, number]> => {
        const giveUpMs = startedMs + 30_000;
        while ((await standby.sql(sql)) !== expected) {
          if (performance.now() > giveUpMs) {
            throw new Error(`${standby.name} did not answer ${expected} to "${sql}" within 30 s`);
          }
        }
        return [standby.name, performance.now() - startedMs];
      }),
    );
    return new Map(times);
  }

  /** The tree as its sending servers see it, once everybody below has reported what there is. */
  async settledTree(): Promise<ServerView> {
    return waitFor('every server to report the position of the primary', async () => {
      const tree = await this.#view();
      const isSettled = (server: ServerView): boolean =>
        server.position === tree.position && server.downstreams.every(isSettled);
      return isSettled(tree) ? tree : undefined;
    });
  }

  async #view(): Promise<ServerView> {
    const position = await this.primary.sql('SELECT pg_current_wal_flush_lsn()');
    const rows = await this.primary.sql(
      'SELECT application_name, state, flush_lsn, replay_lsn FROM pg_stat_replication',
    );
    const below = rows.split('\n').map((row): Downstream => {
      const [applicationName = '', state = '', flush = null, replay = null] = row.split('|');
      return { applicationName, state, flush, replay };
    });
    return {
      name: 'primary',
      kind: `PostgreSQL ${this.primary.binaries.major}`,
      port: this.primary.port,
      state: undefined,
      position,
      downstreams: await this.#viewBelow(below),
    };
  }

  async #viewBelow(downstreams: readonly Downstream[]): Promise<ServerView[]> {
    const views = downstreams.map(async (downstream): Promise<ServerView> => {
      const { applicationName: name, state, flush, replay } = downstream;
      const node = [this.relay, this.relay2].find((each) => each?.name === name);
      const below =
        node === undefined ? [] : ((await node.status())['downstreams'] as Downstream[]);
      return {
        name,
        kind: node === undefined ? `PostgreSQL ${this.primary.binaries.major}` : 'walcade',
        port: this.#port(name as Name),
        state,
        position: (node === undefined ? replay : flush) ?? '',
        downstreams: await this.#viewBelow(below),
      };
    });
    return (await Promise.all(views)).sort((a, b) => a.port - b.port);
  }

  async #startNode(name: 'relay' | 'relay2', upstream: string): Promise<WalcadeNode> {
    const node = await WalcadeNode.init(this.#tree, {
      name,
      upstream,
      port: this.#port(name),
      settings: { listen_addresses: '127.0.0.1', unix_socket_directories: '' },
    });
    await node.start();
    return node;
  }

  #port(name: Name): number {
    return portOf(name, this.#basePort);
  }
}
