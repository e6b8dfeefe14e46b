/**
 * initdb for tests: fast, and the same on every machine.
 */
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { type PostgresBinaries, postgresUser } from './postgres-binaries.ts';

const run = promisify(execFile);

export interface InitdbOptions {
  segmentMegabytes: number;
  environment: Record<string, string>;
}

/** Makes a cluster with superuser `postgres` in the empty directory `dataDirectory`. */
export async function runInitdb(
  { initdb }: PostgresBinaries,
  dataDirectory: string,
  { segmentMegabytes, environment }: InitdbOptions,
): Promise<void> {
  const args = ['-D', dataDirectory, '-U', 'postgres', '-E', 'UTF8', '--auth=trust', '--no-sync'];
  await run(initdb, [...args, `--wal-segsize=${segmentMegabytes}`], {
    cwd: '/',
    env: environment,
    ...(await postgresUser()),
  });
}
