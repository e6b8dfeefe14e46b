/**
 * Primaries that rest while another is measured, and what is put below them: cascading standbys and
 * relays, all of which make WAL durable as they would in production. The primaries do not, so that
 * the disk belongs to the servers that are measured, as if each machine had its own.
 */
import { join } from 'node:path';
import type { PostgresBinaries } from '../test/harness/postgres-binaries.ts';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { PostgresTools } from '../test/harness/postgres-tools.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';

const SETTINGS = {
  autovacuum: false,
  checkpoint_timeout: '1h',
  max_wal_size: '20GB',
  max_connections: 60,
  max_wal_senders: 120,
  wal_sender_timeout: '10min',
  log_replication_commands: false,
};

/** A running primary; of the package's PostgreSQL if not said otherwise. */
export async function makeRestingPrimary(
  tree: TestDirectory,
  name: string,
  binaries?: PostgresBinaries,
): Promise<PostgresCluster> {
  const primary = await PostgresCluster.init(tree, { name, binaries, settings: SETTINGS });
  await primary.start();
  return primary;
}

export interface BelowOptions {
  name: string;
  /** Of the server directly above: the primary or another one below it. */
  upstream: string;
}

/** A running hot standby of `primary`, without a slot. */
export async function startStandby(
  tree: TestDirectory,
  primary: PostgresCluster,
  { name, upstream }: BelowOptions,
): Promise<PostgresCluster> {
  const standby = await PostgresCluster.standby(tree, {
    name,
    from: await primary.backup(join(tree.path, `${name}.backup`)),
    upstreamConninfo: upstream,
    binaries: primary.binaries,
    settings: { ...SETTINGS, fsync: true },
  });
  await standby.start();
  return standby;
}

/** A running relay, without a slot. */
export async function startRelay(
  tree: TestDirectory,
  { name, upstream }: BelowOptions,
): Promise<WalcadeNode> {
  const relay = await WalcadeNode.init(tree, {
    name,
    upstream,
    args: ['--no-slot'],
    settings: { wal_sender_timeout: '10min' },
  });
  await relay.start();
  return relay;
}

export interface Load {
  clients: number;
  seconds: number;
  /** The transactions; pgbench's own ("TPC-B (sort of)") if not given. */
  script?: string;
  /** Transactions a second that all clients together aim at; as many as can be if not given. */
  rate?: number;
}

/** Runs pgbench over the server's socket and gives what it reached, in transactions a second. */
export async function pgbench(
  tools: PostgresTools,
  server: PostgresCluster,
  { clients, seconds, script, rate }: Load,
): Promise<number> {
  const args = ['-n', '-M', 'prepared', '-T', `${seconds}`, '-c', `${clients}`];
  if (clients > 1) args.push('-j', '2');
  if (script !== undefined) args.push('-f', script);
  if (rate !== undefined) args.push('-R', `${rate}`);
  const said = await runPgbench(tools, server, args);
  const reached = /^tps = ([0-9.]+)/m.exec(said)?.[1];
  if (reached === undefined) throw new Error(`pgbench said:\n${said}`);
  return Number(reached);
}

/** Makes the tables of pgbench's own transactions. */
export async function initPgbench(
  tools: PostgresTools,
  server: PostgresCluster,
  scale: number,
): Promise<void> {
  await runPgbench(tools, server, ['-i', '-q', '-s', `${scale}`]);
}

async function runPgbench(
  tools: PostgresTools,
  { socketDirectory, port }: PostgresCluster,
  args: readonly string[],
): Promise<string> {
  const where = ['-h', socketDirectory, '-p', `${port}`, '-U', 'postgres', 'postgres'];
  return (await tools.run('pgbench', [...args, ...where])).stdout;
}
