/**
 * Question: how long is a cascade without a primary when its middle is promoted? From the command
 * to the first row of timeline 2 on a standby below the promoted server: a PostgreSQL standby
 * promoted by pg_ctl, and a node promoted by walcade, each with one PostgreSQL standby below it.
 */
import { execFile } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findPostgres, postgresUser } from '../test/harness/postgres-binaries.ts';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import type { SqlServer } from '../test/harness/sql-server.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { waitFor } from '../test/harness/wait.ts';
import { WalcadeNode } from '../test/harness/walcade-node.ts';
import type { Bench, BenchContext, Readings } from './frame.ts';

const execute = promisify(execFile);
const PROGRAM = fileURLToPath(new URL('../bin/walcade', import.meta.url));

const WHAT = 'from the command';
const WRITES = 'ms to writes accepted';
const ROW = 'ms to the first row below';
const RECONNECTS = 'reconnects below';

export const promotion: Bench = {
  name: 'promotion',
  question:
    'How long is it from the command that promotes the middle of a cascade to the first new row ' +
    'on a standby below it?',
  aims: [
    { what: WHAT, unit: ROW, of: { side: 'PostgreSQL' }, atMost: 1 },
    { what: WHAT, unit: RECONNECTS, atMost: 0 },
  ],
  run,
};

async function run({ tree, alternate }: BenchContext): Promise<string> {
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE promoted (value int)');
  const backup = await primary.backup(join(tree.path, 'backup'));
  await alternate(WHAT, {
    walcade: (number) => promoteNode(tree, { primary, backup, number }),
    PostgreSQL: (number) => promotePostgres(tree, { primary, backup, number }),
  });
  return (
    'pg_ctl promote of a standby, walcade promote of a node, each with a PostgreSQL standby ' +
    'below; the commands are started as a person starts them, their own start included'
  );
}

interface PromotionOptions {
  primary: PostgresCluster;
  /** A base backup of the primary. */
  backup: string;
  number: number;
}

/** A PostgreSQL standby with another below it, promoted by pg_ctl. */
async function promotePostgres(
  tree: TestDirectory,
  { primary, backup, number }: PromotionOptions,
): Promise<Readings> {
  const middle = await startStandby(tree, {
    name: `middle${number}`,
    from: backup,
    upstream: primary,
  });
  const below = await startStandby(tree, {
    name: `below-middle${number}`,
    from: backup,
    upstream: middle,
  });
  const { postgres } = await findPostgres();
  const user = await postgresUser();
  const args = ['promote', '-w', '-D', middle.dataDirectory];
  const options = user === undefined ? {} : { uid: user.uid, gid: user.gid, cwd: '/' };
  const times = await measure(middle, below, async () => {
    await execute(join(dirname(postgres), 'pg_ctl'), args, options);
  });
  await below.end();
  await middle.end();
  return times;
}

/** A node with a PostgreSQL standby below it, promoted by walcade. */
async function promoteNode(
  tree: TestDirectory,
  { primary, backup, number }: PromotionOptions,
): Promise<Readings> {
  const node = await WalcadeNode.init(tree, {
    name: `node${number}`,
    upstream: primary.conninfo,
    withPostgres: true,
  });
  await node.start();
  const below = await startStandby(tree, {
    name: `below-node${number}`,
    from: backup,
    upstream: node,
  });
  await node.waitForCatchup(primary);
  const times = await measure(node, below, async () => {
    await execute(process.execPath, [PROGRAM, 'promote', '-D', node.directory]);
  });
  await below.end();
  await node.end();
  return times;
}

async function startStandby(
  tree: TestDirectory,
  { name, from, upstream }: { name: string; from: string; upstream: PostgresCluster | WalcadeNode },
): Promise<PostgresCluster> {
  const standby = await PostgresCluster.standby(tree, {
    name,
    from,
    upstreamConninfo: upstream.conninfo,
  });
  await standby.start();
  await waitFor(`the WAL receiver of ${name}`, () => standby.walReceiverPid());
  return standby;
}

async function measure(
  promoted: SqlServer,
  below: PostgresCluster,
  promote: () => Promise<void>,
): Promise<Readings> {
  const receiver = await below.walReceiverPid();
  const count = 'SELECT count(*) FROM promoted';
  const before = await below.sql(count);
  const startedMs = performance.now();
  await promote();
  const commandMs = performance.now() - startedMs;
  await promoted.sql('INSERT INTO promoted VALUES (1)');
  while ((await below.sql(count)) === before) {
    if (performance.now() - startedMs > 60_000) throw new Error('the row has not come in 60 s');
  }
  const rowMs = performance.now() - startedMs;
  const reconnects = (await below.walReceiverPid()) === receiver ? 0 : 1;
  return { [WRITES]: commandMs, [ROW]: rowMs, [RECONNECTS]: reconnects };
}
