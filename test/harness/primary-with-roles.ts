/**
 * A primary with a role for each way to be let in for replication, or not: what the tests of the
 * command line start from. Its segments are small, so that a test can fill several.
 */
import { PostgresCluster, type Settings } from './postgres-cluster.ts';
import type { TestDirectory } from './test-directory.ts';

/** A running primary with roles for each way to be let in, or not. */
export async function startPrimaryWithRoles(
  tree: TestDirectory,
  name: string,
  settings: Settings = {},
): Promise<PostgresCluster> {
  const primary = await PostgresCluster.init(tree, {
    name,
    segmentMegabytes: 1,
    settings: { wal_keep_size: '32MB', ...settings },
    hba: [
      'host all,replication postgres 127.0.0.1/32 trust',
      'host replication reader 127.0.0.1/32 trust',
      'host replication missing 127.0.0.1/32 trust',
      'host replication scram 127.0.0.1/32 scram-sha-256',
      'host replication md5 127.0.0.1/32 md5',
      'host replication clear 127.0.0.1/32 password',
      'host replication rejected 127.0.0.1/32 reject',
    ],
  });
  await primary.start();
  await primary.sql(
    `CREATE ROLE reader LOGIN;
     SET password_encryption = 'scram-sha-256';
     CREATE ROLE scram LOGIN REPLICATION PASSWORD 'right';
     CREATE ROLE clear LOGIN REPLICATION PASSWORD 'right';
     SET password_encryption = 'md5';
     CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'right';`,
  );
  return primary;
}
