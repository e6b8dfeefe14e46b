/**
 * Question: what is left of a primary's rate of commits when each waits for a node as synchronous
 * standby, beside pg_receivewal --synchronous and a PostgreSQL standby?
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { receiveWithTool } from '../test/harness/pg-receivewal.ts';
import { type PostgresTools, findTools } from '../test/harness/postgres-tools.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { type Bench, type BenchContext, ProgramMissing, type Readings } from './frame.ts';
import { makeRestingPrimary, pgbench, startRelay, startStandby } from './pairs.ts';

const RATE = 'transactions/s';
const TOOL = 'pg_receivewal';
const STANDBY = 'PostgreSQL standby';

export const sync: Bench = {
  name: 'sync',
  question:
    'How many transactions a second does a primary commit when each waits for a node as ' +
    'synchronous standby, beside pg_receivewal --synchronous and a PostgreSQL standby?',
  aims: [
    ...[1, 8, 32].map((count) => ({
      what: named(count),
      unit: RATE,
      of: { side: TOOL },
      atLeast: 1,
    })),
    { what: named(1), unit: RATE, of: { side: STANDBY }, atLeast: 1.3 },
  ],
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const tools = await findTools(['pgbench', TOOL]);
  if (tools === undefined) throw new ProgramMissing(`pgbench and ${TOOL}`);
  const script = join(tree.path, 'commit.sql');
  await writeFile(script, 'insert into committed values (:client_id);\n');
  const primaries = {
    walcade: await makeSynced(tree, tools, { name: 'primary-node', startBelow: startNode }),
    [TOOL]: await makeSynced(tree, tools, { name: 'primary-tool', startBelow: startReceiveWal }),
    [STANDBY]: await makeSynced(tree, tools, {
      name: 'primary-standby',
      startBelow: startStandbyBelow,
    }),
  };
  const seconds = choose({ full: 8, short: 3, smoke: 1 });
  for (const clients of choose({ full: [1, 8, 32], short: [1, 8, 32], smoke: [1] })) {
    const commits = async (primary: PostgresCluster): Promise<Readings> => ({
      [RATE]: await pgbench(tools, primary, { clients, seconds, script }),
    });
    await alternate(named(clients), {
      walcade: () => commits(primaries.walcade),
      [TOOL]: () => commits(primaries[TOOL]),
      [STANDBY]: () => commits(primaries[STANDBY]),
    });
  }
  return (
    `PostgreSQL ${tools.major}; pgbench with transactions of one INSERT, ${seconds} s a run; ` +
    'synchronous_commit = on; each of the three has a primary of its own, which does not fsync, ' +
    'so that the disk is that of the standby alone; all share the cores'
  );
}

function named(clients: number): string {
  return clients === 1 ? '1 client' : `${clients} clients`;
}

type StartBelow = (
  tree: TestDirectory,
  primary: PostgresCluster,
  tools: PostgresTools,
) => Promise<void>;

async function startNode(tree: TestDirectory, { conninfo }: PostgresCluster): Promise<void> {
  await startRelay(tree, { name: 'node', upstream: conninfo });
}

const startReceiveWal: StartBelow = async (tree, { conninfo }, tools) => {
  await receiveWithTool(tree, tools, { conninfo, name: TOOL, args: ['--synchronous'] });
};

async function startStandbyBelow(tree: TestDirectory, primary: PostgresCluster): Promise<void> {
  await startStandby(tree, primary, { name: 'standby', upstream: primary.conninfo });
}

/** A primary, none of whose commits returns before what `startBelow` starts has flushed it. */
async function makeSynced(
  tree: TestDirectory,
  tools: PostgresTools,
  { name, startBelow }: { name: string; startBelow: StartBelow },
): Promise<PostgresCluster> {
  const primary = await makeRestingPrimary(tree, name, tools.binaries);
  await primary.sql('create table committed (client int)');
  await startBelow(tree, primary, tools);
  await primary.configure({ synchronous_standby_names: '*' });
  primary.reload();
  await primary.waitForSql(
    "select count(*) from pg_stat_replication where sync_state = 'sync' and state = 'streaming'",
    '1',
  );
  return primary;
}
