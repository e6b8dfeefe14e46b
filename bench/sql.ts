/**
 * Question: how much of PostgreSQL's own rate of short queries is left when they come through the
 * node's port? pgbench, select only, from 8 clients: straight to a PostgreSQL over TCP, and to the
 * attached server through the node over TCP.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';

const run = promisify(execFile);
const SCALE = 10;

export interface SqlServers {
  primary: PostgresCluster;
  node: WalcadeNode;
}

/** A primary with pgbench's tables, and a node with a hot standby of it. */
export async function makeSqlServers(
  tree: TestDirectory,
  primary: PostgresCluster,
): Promise<SqlServers> {
  await pgbench(primary.port, ['-i', '-q', '-s', `${SCALE}`]);
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: primary.conninfo,
    withPostgres: true,
  });
  await node.start();
  await node.waitForCatchup(primary);
  return { primary, node };
}

/** Transactions per second of 8 clients that select a row at a time, over TCP. */
export async function selectsPerSecond(port: number, seconds: number): Promise<number> {
  const said = await pgbench(port, ['-n', '-S', '-c', '8', '-j', '2', '-T', `${seconds}`]);
  const rate = /^tps = ([0-9.]+)/m.exec(said)?.[1];
  if (rate === undefined) throw new Error(`pgbench said:\n${said}`);
  return Number(rate);
}

async function pgbench(port: number, args: readonly string[]): Promise<string> {
  const where = ['-h', '127.0.0.1', '-p', `${port}`, '-U', 'postgres', 'postgres'];
  try {
    return (await run('pgbench', [...args, ...where])).stdout;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new Error('the bench "sql" needs pgbench of PostgreSQL on PATH', { cause: error });
  }
}
