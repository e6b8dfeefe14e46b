/**
 * A primary with a table `number`, and what tests of nodes with an attached server put below it or
 * into it.
 */
import { chown } from 'node:fs/promises';
import type { TestContext } from 'node:test';
import { postgresUser } from './postgres-binaries.ts';
import { PostgresCluster } from './postgres-cluster.ts';
import type { SqlServer } from './sql-server.ts';
import { TestDirectory } from './test-directory.ts';
import { WalcadeNode } from './walcade-node.ts';

export interface NumberCluster {
  tree: TestDirectory;
  primary: PostgresCluster;
}

/** A running primary with a table `number`. */
export async function numberCluster(t: TestContext): Promise<NumberCluster> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE number (value int)');
  return { tree, primary };
}

/** The same, and a running node with an attached server below it. */
export async function numberClusterWithNode(
  t: TestContext,
): Promise<NumberCluster & { node: WalcadeNode }> {
  const { tree, primary } = await numberCluster(t);
  const options = { name: 'node', upstream: primary.conninfo, withPostgres: true };
  const node = await WalcadeNode.init(tree, options);
  await node.start();
  await node.waitForCatchup(primary);
  return { tree, primary, node };
}

/** Makes an empty tablespace on the primary and gives its directory. */
export async function makeTablespace(
  { tree, primary }: { tree: TestDirectory; primary: SqlServer },
  name: string,
): Promise<string> {
  const location = await tree.makeDirectory(name);
  const user = await postgresUser();
  if (user !== undefined) await chown(location, user.uid, user.gid);
  await primary.sql(`CREATE TABLESPACE ${name} LOCATION '${location}'`);
  return location;
}
