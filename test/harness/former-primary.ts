/**
 * Two nodes of one cluster, of which one was the primary and the other is: what tests of
 * `walcade rejoin` begin with.
 */
import type { TestContext } from 'node:test';
import { PostgresCluster } from './postgres-cluster.ts';
import { IS_BEHIND } from './primary-pair.ts';
import { TestDirectory } from './test-directory.ts';
import { WalcadeNode } from './walcade-node.ts';

export interface FormerPrimary {
  tree: TestDirectory;
  /** The first of all, stopped. */
  primary: PostgresCluster;
  /** Was promoted first, and is stopped. */
  old: WalcadeNode;
  /** Was promoted after it, and runs. */
  current: WalcadeNode;
}

export interface FormerPrimaryOptions {
  /** Whether the second node is promoted; else it goes on as a standby of the old primary. */
  isPromoted?: boolean;
  /** What the old primary does after the other has received its last WAL. */
  writes?: readonly string[];
  /** How it ends. */
  ends?: 'in peace' | 'by a crash';
  /** Another PostgreSQL than the package's, by its server's program and directory. */
  server?: { binaries: PostgresCluster['binaries']; directory: string } | undefined;
  settings?: Record<string, string | number | boolean>;
}

/** Both nodes were made below a primary that is gone; the first was promoted, then the second. */
export async function formerPrimary(
  t: TestContext,
  {
    isPromoted = true,
    writes = [],
    ends = 'in peace',
    server,
    settings = {},
  }: FormerPrimaryOptions = {},
): Promise<FormerPrimary> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, {
    name: 'primary',
    binaries: server?.binaries,
    settings,
  });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  const make = async (name: string, upstream: string): Promise<WalcadeNode> => {
    const bin = server === undefined ? {} : { args: withServer(server.directory) };
    const withPostgres = server === undefined;
    const node = await WalcadeNode.init(tree, { name, upstream, withPostgres, ...bin });
    await node.start();
    return node;
  };
  const old = await make('old', primary.conninfo);
  // Its server has the base backup's timeline as it rejoins, before the node has followed there.
  old.expectLog(IS_BEHIND);
  await old.waitForCatchup(primary);
  await primary.stop();
  await promote(old);
  const current = await make('current', old.conninfo);
  await old.sql('INSERT INTO number SELECT generate_series(1, 1000)');
  await current.waitForCatchup(old);
  if (writes.length > 0) {
    await current.stop();
    for (const text of writes) await old.sql(text);
  }
  if (ends === 'in peace') await old.stop();
  else await old.kill9();
  if (writes.length > 0) await current.start();
  if (isPromoted) {
    await promote(current);
    await current.sql('INSERT INTO number VALUES (-1)');
  }
  return { tree, primary, old, current };
}

/** Behind the node's back. */
export async function promote(node: WalcadeNode): Promise<void> {
  await node.sql('SELECT pg_promote(true, 60)');
  await node.waitForSql('SELECT pg_is_in_recovery()', 'f');
}

function withServer(directory: string): string[] {
  return ['--with-postgres', '--postgres-bin', directory];
}
