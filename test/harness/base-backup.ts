/** Base backups of a test's servers, taken by the program's own client as a node takes them. */
import { systemClock } from '../../src/base/clock.ts';
import {
  type BaseBackup,
  type BaseBackupOptions,
  takeBaseBackup,
} from '../../src/postgres/base-backup.ts';
import { serverUser } from '../../src/postgres/server-user.ts';
import { ReplicationClient, singleValue } from '../../src/protocol/client.ts';
import { systemNetwork } from '../../src/protocol/network.ts';

export interface BackUpOptions extends Partial<BaseBackupOptions> {
  port: number;
  keepOnFailure?: boolean;
}

/** Backs up the server at `port` into `directory`, which must not exist or be empty. */
export async function backUp(
  directory: string,
  { port, signal = new AbortController().signal, ...options }: BackUpOptions,
): Promise<BaseBackup> {
  const client = await connectForBackup(port, signal);
  try {
    return await takeBaseBackup(client, {
      serverVersionNum: Number(singleValue(await client.query('SHOW server_version_num'), 0)),
      directory,
      tablespaceMapping: new Map(),
      user: await serverUser(),
      label: 'test',
      clock: systemClock,
      keepOnFailure: false,
      signal,
      ...options,
    });
  } finally {
    await client.close();
  }
}

function connectForBackup(port: number, signal: AbortSignal): Promise<ReplicationClient> {
  return ReplicationClient.connect({
    network: systemNetwork,
    clock: systemClock,
    addresses: [{ host: '127.0.0.1', port }],
    user: 'postgres',
    password: () => undefined,
    allowsAuthentication: () => true,
    sessionAttributes: 'any',
    parameters: { database: 'replication', replication: 'true', application_name: 'base_backup' },
    connectTimeoutMs: 30_000,
    signal,
  });
}
