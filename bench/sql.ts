/**
 * Question: how much of PostgreSQL's own rate of short queries is left when they come through the
 * node's port? pgbench, select only, from 8 clients: straight to a PostgreSQL over TCP, and to the
 * attached server through the node over TCP.
 */
import { type PostgresTools, findTools } from '../test/harness/postgres-tools.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import { type Bench, type BenchContext, ProgramMissing, type Readings } from './frame.ts';
import { makePrimary } from './servers.ts';

const WHAT = '8 clients';
const RATE = 'transactions/s';

export const sql: Bench = {
  name: 'sql',
  question: "How much of PostgreSQL's rate of short queries is left through the node's port?",
  aims: [{ what: WHAT, unit: RATE, of: { side: 'PostgreSQL' }, atLeast: 0.8 }],
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const tools = await findTools(['pgbench']);
  if (tools === undefined) throw new ProgramMissing('pgbench');
  const primary = await makePrimary(tree);
  const scale = choose({ full: 10, short: 10, smoke: 1 });
  await pgbench(tools, primary.port, ['-i', '-q', '-s', `${scale}`]);
  const upstream = primary.conninfo;
  const node = await WalcadeNode.init(tree, { name: 'node', upstream, withPostgres: true });
  await node.start();
  await node.waitForCatchup(primary);
  const seconds = choose({ full: 10, short: 3, smoke: 1 });
  await alternate(WHAT, {
    walcade: () => selects(tools, node.port, seconds),
    PostgreSQL: () => selects(tools, primary.port, seconds),
  });
  return (
    `pgbench -S -c 8 -j 2 over TCP on loopback, ${seconds} s a run; client, node and server ` +
    'share the cores'
  );
}

/** Transactions per second of 8 clients that select a row at a time, over TCP. */
async function selects(tools: PostgresTools, port: number, seconds: number): Promise<Readings> {
  const said = await pgbench(tools, port, ['-n', '-S', '-c', '8', '-j', '2', '-T', `${seconds}`]);
  const rate = /^tps = ([0-9.]+)/m.exec(said)?.[1];
  if (rate === undefined) throw new Error(`pgbench said:\n${said}`);
  return { [RATE]: Number(rate) };
}

async function pgbench(
  tools: PostgresTools,
  port: number,
  args: readonly string[],
): Promise<string> {
  const where = ['-h', '127.0.0.1', '-p', `${port}`, '-U', 'postgres', 'postgres'];
  return (await tools.run('pgbench', [...args, ...where])).stdout;
}
