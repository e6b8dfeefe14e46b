/**
 * The primary that tests of crashes and of the attached server's life begin with: segments are of
 * 1 MB, it keeps no WAL but what slots ask for, and it has an empty table `load`.
 */
import type { TestContext } from 'node:test';
import { PostgresCluster, type Settings } from './postgres-cluster.ts';
import { TestDirectory } from './test-directory.ts';

export interface LoadPrimary {
  tree: TestDirectory;
  primary: PostgresCluster;
}

/** It runs. */
export async function loadPrimary(t: TestContext, settings: Settings): Promise<LoadPrimary> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, {
    name: 'primary',
    segmentMegabytes: 1,
    settings: {
      wal_keep_size: 0,
      min_wal_size: '4MB',
      max_wal_size: '16MB',
      autovacuum: false,
      ...settings,
    },
  });
  await primary.start();
  await primary.sql('CREATE TABLE load (id serial PRIMARY KEY, payload text)');
  return { tree, primary };
}
