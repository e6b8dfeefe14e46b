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

const run = promisify(execFile);
const PROGRAM = fileURLToPath(new URL('../bin/walcade', import.meta.url));

export interface PromotionTimes {
  /** From the command's start to its end: the server accepts writes. */
  commandMs: number;
  /** From the command's start to the row on the standby below. */
  rowMs: number;
  /** Whether the standby's WAL receiver is the one that it was. */
  isSameReceiver: boolean;
}

export interface PromotionOptions {
  primary: PostgresCluster;
  /** A base backup of the primary. */
  backup: string;
  run: number;
}

/** A PostgreSQL standby with another below it, promoted by pg_ctl. */
export async function promotePostgres(
  tree: TestDirectory,
  { primary, backup, run: number }: PromotionOptions,
): Promise<PromotionTimes> {
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
    await run(join(dirname(postgres), 'pg_ctl'), args, options);
  });
  await below.end();
  await middle.end();
  return times;
}

/** A node with a PostgreSQL standby below it, promoted by walcade. */
export async function promoteNode(
  tree: TestDirectory,
  { primary, backup, run: number }: PromotionOptions,
): Promise<PromotionTimes> {
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
    await run(process.execPath, [PROGRAM, 'promote', '-D', node.directory]);
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
): Promise<PromotionTimes> {
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
  return { commandMs, rowMs, isSameReceiver: (await below.walReceiverPid()) === receiver };
}
