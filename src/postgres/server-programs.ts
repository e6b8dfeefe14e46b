/**
 * Finds the programs of a PostgreSQL major version where PostgreSQL's user can run them.
 *
 * Every place is asked with `postgres --version`, run as that user: a program that he cannot
 * reach, such as one below somebody's home, is found out now and not at the start.
 */
import { type ExecFileException, execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { delimiter, isAbsolute, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';
import { EMBEDDED_PACKAGE, findEmbeddedPackage, makeRunnable } from './embedded-package.ts';
import type { ServerUser } from './server-user.ts';

const run = promisify(execFile);

/** Of what a program says that is not PostgreSQL's, as much is told. */
const SAID_LENGTH_MAX = 200;

export interface ServerPrograms {
  readonly major: number;
  /** As `postgres --version` says it: 18.4. */
  readonly version: string;
  /** The directory of the programs: postgres, and where they are, initdb, pg_ctl, … */
  readonly directory: string;
}

export interface WantedPrograms {
  readonly major: number;
  /** The only place to look at, if given. */
  readonly directory?: string | undefined;
  /** Who is to run them; undefined for the user of this process. */
  readonly user: ServerUser | undefined;
}

/** A place that was looked at, as it is told, and what is there. */
interface Finding {
  readonly place: string;
  readonly found:
    | { readonly kind: 'programs'; readonly programs: ServerPrograms }
    | { readonly kind: 'none' }
    /** Nothing that could be used or asked; `why` follows the place's name. */
    | { readonly kind: 'unusable'; readonly why: string };
}

/**
 * The programs of PostgreSQL `major`, runnable by `user`: in `directory` if it is given, else on
 * PATH, where Debian, Red Hat and Homebrew install that major, or in the npm package.
 * Throws 58P01 if there are none, with what is in every place that was looked at.
 */
export async function findServerPrograms(want: WantedPrograms): Promise<ServerPrograms> {
  const { major, directory } = want;
  const details: string[] = [];
  for await (const finding of look(want)) {
    const { found } = finding;
    if (found.kind === 'programs' && found.programs.major === major) return found.programs;
    details.push(describe(finding));
  }
  const where = directory === undefined ? '' : ` in directory "${resolve(directory)}"`;
  throw new WalcadeError(SQLSTATE.UNDEFINED_FILE, `could not find PostgreSQL ${major}${where}`, {
    detail: details.join(' '),
    hint: `Install PostgreSQL ${major}, or name its directory with --postgres-bin.`,
  });
}

/** Looks at one place after the other, for as long as it is asked for the next. */
async function* look({ major, directory, user }: WantedPrograms): AsyncGenerator<Finding> {
  if (directory !== undefined) {
    yield await inspectDirectory(resolve(directory), user);
    return;
  }
  const onPath = pathDirectories();
  let isOnPath = false;
  for (const each of onPath) {
    const finding = await inspectDirectory(each, user);
    if (finding.found.kind === 'none') continue;
    isOnPath = true;
    yield finding;
  }
  if (!isOnPath) yield { place: 'PATH', found: { kind: 'none' } };
  for (const each of installationDirectories(major)) {
    if (!onPath.includes(each)) yield await inspectDirectory(each, user);
  }
  yield await inspectPackage(major, user);
}

/** The directories of PATH; relative ones would depend on where this process stands. */
function pathDirectories(): string[] {
  const directories = (process.env['PATH'] ?? '').split(delimiter);
  return [...new Set(directories.filter((directory) => isAbsolute(directory)))];
}

/** Where Debian, Red Hat and Homebrew install `major`. */
function installationDirectories(major: number): string[] {
  return [
    `/usr/lib/postgresql/${major}/bin`,
    `/usr/pgsql-${major}/bin`,
    `/opt/homebrew/opt/postgresql@${major}/bin`,
  ];
}

async function inspectDirectory(directory: string, user: ServerUser | undefined): Promise<Finding> {
  const place = `"${directory}"`;
  const program = join(directory, 'postgres');
  try {
    if (!(await stat(program)).isFile()) return { place, found: { kind: 'none' } };
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return { place, found: { kind: 'none' } };
    const why = `cannot be looked into: ${describeSystemError(error)}`;
    return { place, found: { kind: 'unusable', why } };
  }
  try {
    const { stdout } = await run(program, ['--version'], { cwd: '/', ...user });
    const match = /^postgres \(PostgreSQL\) ((\d+)\S*)/.exec(stdout);
    if (match === null) return { place, found: unusable(`says "${firstLine(stdout)}"`) };
    const [, version = '', major = ''] = match;
    const programs = { major: Number(major), version, directory };
    return { place, found: { kind: 'programs', programs } };
  } catch (error) {
    return { place, found: unusable(whyNotRun(error, user)) };
  }
}

/** The package's own description is enough to pass it by; what is copied is asked like all. */
async function inspectPackage(major: number, user: ServerUser | undefined): Promise<Finding> {
  const embedded = await findEmbeddedPackage();
  const place = `Package ${EMBEDDED_PACKAGE}`;
  if (embedded === undefined) {
    return { place, found: { kind: 'unusable', why: 'is not installed' } };
  }
  if (embedded.major === major) return inspectDirectory(await makeRunnable(embedded), user);
  return { place, found: { kind: 'unusable', why: `has PostgreSQL ${embedded.version}` } };
}

function unusable(why: string): Finding['found'] {
  return { kind: 'unusable', why: `has a program "postgres" that ${why}` };
}

/** Why `postgres --version` gave no answer: it was not started, or it ended otherwise. */
function whyNotRun(error: unknown, user: ServerUser | undefined): string {
  if (systemErrorCode(error) !== undefined) {
    const who = user === undefined ? 'this user' : `user ID ${user.uid}`;
    return `${who} cannot reach or run: ${describeSystemError(error)}`;
  }
  const { code, signal, stderr } = error as ExecFileException;
  const how = typeof code === 'number' ? `exit status ${code}` : `signal ${signal}`;
  return `ends with ${how} and says "${firstLine(stderr ?? '')}"`;
}

function firstLine(text: string): string {
  return (text.split('\n')[0] ?? '').trim().slice(0, SAID_LENGTH_MAX);
}

function describe({ place, found }: Finding): string {
  switch (found.kind) {
    case 'programs':
      return `${place} has PostgreSQL ${found.programs.version}.`;
    case 'none':
      return `${place} has no program "postgres".`;
    case 'unusable':
      return `${place} ${found.why}.`;
  }
}
