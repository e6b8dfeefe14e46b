/**
 * New clusters for tests, the same on every machine. initdb computes for as long as a small test
 * does, so it runs once for a run of tests and each kind of cluster; the clusters are copies.
 *
 * Copies have one system identifier. So a test gets one copy, and what it makes after that has an
 * identifier of its own, from initdb: no two clusters that can meet are taken for the same.
 */
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { type PostgresBinaries, postgresUser } from './postgres-binaries.ts';
import type { TestDirectory } from './test-directory.ts';

const run = promisify(execFile);

export interface InitdbOptions {
  segmentMegabytes: number;
  environment: Record<string, string>;
}

/** The tests that have their copy. */
const served = new WeakSet<TestDirectory>();
/** What this process has made or found, by its path. */
const templates = new Map<string, Promise<void>>();

/** Makes a cluster with superuser `postgres` in the empty directory `dataDirectory`. */
export async function makeCluster(
  tree: TestDirectory,
  binaries: PostgresBinaries,
  dataDirectory: string,
  options: InitdbOptions,
): Promise<void> {
  const { runDirectory } = tree;
  if (runDirectory === undefined || served.has(tree)) {
    return runInitdb(binaries, dataDirectory, options);
  }
  served.add(tree);
  const programs = dirname(binaries.initdb).replaceAll(/[^\w.]+/g, '-');
  const template = join(runDirectory, `initdb${programs}-${options.segmentMegabytes}`);
  const made = templates.get(template) ?? makeTemplate(template, binaries, options);
  templates.set(template, made);
  await made;
  const cp = ['-RPp', `${template}/.`, dataDirectory];
  await run('cp', cp, { cwd: '/', ...(await postgresUser()) });
}

/** What is copied: made beside its place and renamed, as other processes make it too. */
async function makeTemplate(
  template: string,
  binaries: PostgresBinaries,
  options: InitdbOptions,
): Promise<void> {
  if (existsSync(template)) return;
  const making = `${template}.${process.pid}`;
  await fs.mkdir(making, { mode: 0o700 });
  const user = await postgresUser();
  if (user !== undefined) await fs.chown(making, user.uid, user.gid);
  await runInitdb(binaries, making, options);
  try {
    await fs.rename(making, template);
  } catch (error) {
    if (!existsSync(template)) throw error;
    await fs.rm(making, { recursive: true });
  }
}

async function runInitdb(
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
