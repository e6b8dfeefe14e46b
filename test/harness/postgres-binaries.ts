/**
 * The PostgreSQL under test: always that of an npm package, whatever the machine has installed,
 * and who runs it. Both are found once a process.
 */
import { join } from 'node:path';
import {
  EMBEDDED_PACKAGE,
  type EmbeddedPackage,
  findEmbeddedPackage,
  makeRunnable,
} from '../../src/postgres/embedded-package.ts';
import { type ServerUser, serverUser } from '../../src/postgres/server-user.ts';

/** The major that the main package.json brings; the others are in test/majors. */
const MAJOR_DEFAULT = 18;

export interface PostgresBinaries {
  readonly major: number;
  readonly initdb: string;
  readonly postgres: string;
}

/** The major under test: `WALCADE_TEST_MAJOR`, or the one that the package brings. */
export function testedMajor(): number {
  return Number(process.env['WALCADE_TEST_MAJOR'] ?? MAJOR_DEFAULT);
}

const found = new Map<number, Promise<PostgresBinaries>>();
let user: Promise<ServerUser | undefined> | undefined;

/** Runnable programs of PostgreSQL `major`; an error if its package is not installed. */
export async function findPostgres(major: number = testedMajor()): Promise<PostgresBinaries> {
  const binaries = found.get(major) ?? findBinaries(major);
  found.set(major, binaries);
  return binaries;
}

/** Who runs PostgreSQL, as a node would have it run; undefined for the user of the tests. */
export async function postgresUser(): Promise<ServerUser | undefined> {
  user ??= serverUser();
  return user;
}

async function findBinaries(major: number): Promise<PostgresBinaries> {
  const bin = await makeRunnable(await findPackage(major));
  return { major, initdb: join(bin, 'initdb'), postgres: join(bin, 'postgres') };
}

async function findPackage(major: number): Promise<EmbeddedPackage> {
  const isDefault = major === MAJOR_DEFAULT;
  const name = isDefault ? EMBEDDED_PACKAGE : `postgres-${major}`;
  const from = isDefault
    ? import.meta.url
    : new URL('../majors/package.json', import.meta.url).href;
  const installed = await findEmbeddedPackage(name, from);
  if (installed !== undefined) return installed;
  const remedy = isDefault
    ? 'run "npm ci"; optional dependencies must not be omitted'
    : 'run "npm run test:matrix", which installs it on Linux on x64';
  throw new Error(`PostgreSQL ${major} is not installed: package ${name} was not found; ${remedy}`);
}
