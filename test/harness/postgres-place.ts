/**
 * Where a PostgreSQL server of a test lives: its directories, its port, its environment.
 */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { type PostgresBinaries, findPostgres, postgresUser } from './postgres-binaries.ts';
import type { TestDirectory } from './test-directory.ts';

/** What one server has to itself. */
export interface Place {
  binaries: PostgresBinaries;
  dataDirectory: string;
  socketDirectory: string;
  port: number;
}

export interface Wish {
  name: string;
  directory: string | undefined;
  major?: number;
  binaries?: PostgresBinaries | undefined;
  port?: number;
}

/** Directories that PostgreSQL's user owns, and a port. */
export async function choosePlace(tree: TestDirectory, wish: Wish): Promise<Place> {
  const dataDirectory = wish.directory ?? join(tree.path, wish.name);
  await fs.mkdir(dataDirectory, { mode: 0o700 });
  const socketDirectory = await tree.makeDirectory(`${wish.name}.s`);
  const user = await postgresUser();
  if (user !== undefined) {
    for (const directory of [dataDirectory, socketDirectory]) {
      await fs.chown(directory, user.uid, user.gid);
    }
  }
  const binaries = wish.binaries ?? (await findPostgres(wish.major));
  const port = wish.port ?? (await tree.reservePort());
  return { binaries, dataDirectory, socketDirectory, port };
}

/** What a server is started with: nothing of the tester's language, time zone or PG variables. */
export function cleanEnvironment(): Record<string, string> {
  return {
    PATH: process.env['PATH'] ?? '/usr/bin:/bin',
    LC_ALL: process.platform === 'darwin' ? 'C' : 'C.UTF-8',
    TZ: 'UTC',
    ...(process.env['WALCADE_TEST_DIRECTORY'] === undefined
      ? {}
      : { WALCADE_TEST_DIRECTORY: process.env['WALCADE_TEST_DIRECTORY'] }),
  };
}
