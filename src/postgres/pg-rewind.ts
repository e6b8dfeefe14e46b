/**
 * pg_rewind: takes the files of a data directory back to where its history and another server's
 * part, by copying from that server what has changed since (manual, "pg_rewind").
 *
 * It looks at everything before it changes anything; when it is ended after that, the directory is
 * of no use any more. It runs as who runs the server, and ends when the signal aborts.
 */
import { execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { serverEnvironment } from './server-environment.ts';
import type { ServerPrograms } from './server-programs.ts';
import type { ServerUser } from './server-user.ts';

const run = promisify(execFile);

/** Of what a program says as much is kept; its errors come last. */
const SAID_BYTES_MAX = 64 * 1024;
const TOLD_LINES_MAX = 5;

export interface RewindTarget {
  readonly programs: ServerPrograms;
  readonly dataDirectory: string;
  /** Who runs them; undefined: we do. */
  readonly user: ServerUser | undefined;
}

export interface RewindOptions {
  /** The server to copy from, as libpq takes it, without a password. */
  readonly source: string;
  readonly password: string | undefined;
  /** Only looks whether it can be done. */
  readonly dryRun: boolean;
  readonly signal: AbortSignal;
}

/** Whether the programs have one: those of the npm package do not. */
export async function hasRewind({ programs, user }: RewindTarget): Promise<boolean> {
  return run(programPath(programs, 'pg_rewind'), ['--version'], { cwd: '/', ...user }).then(
    () => true,
    () => false,
  );
}

/** Throws 55000 with what it said if it does not succeed, or the signal's reason. */
export async function runRewind(
  target: RewindTarget,
  { source, password, dryRun, signal }: RewindOptions,
): Promise<void> {
  const { dataDirectory } = target;
  const args = ['-D', dataDirectory, `--source-server=${source}`, ...(dryRun ? ['-n'] : [])];
  const secret = password === undefined ? {} : { PGPASSWORD: password };
  await runProgram(target, { name: 'pg_rewind', args, environment: secret, signal });
}

/**
 * Has a server that crashed recover and shut down, without serving anybody, as pg_rewind does it
 * where it needs that. Throws as runRewind().
 */
export async function recoverFromCrash(target: RewindTarget, signal: AbortSignal): Promise<void> {
  const { dataDirectory } = target;
  // Debian's postgresql.conf names the primary's own directory, which may be another cluster's.
  const settings = [`data_directory=${dataDirectory}`, 'logging_collector=off'];
  const options = settings.flatMap((setting) => ['-c', setting]);
  const args = ['--single', '-D', dataDirectory, ...options, 'template1'];
  await runProgram(target, { name: 'postgres', args, environment: {}, signal });
}

async function runProgram(
  { programs, user }: RewindTarget,
  {
    name,
    args,
    environment,
    signal,
  }: {
    name: string;
    args: readonly string[];
    environment: Record<string, string>;
    signal: AbortSignal;
  },
): Promise<void> {
  signal.throwIfAborted();
  const child = spawn(programPath(programs, name), args, {
    cwd: '/',
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...serverEnvironment(process.env, user), ...environment },
    ...user,
  });
  let said = '';
  const listen = (chunk: Buffer): void => {
    said = `${said}${chunk.toString()}`.slice(-SAID_BYTES_MAX);
  };
  child.stdout.on('data', listen);
  child.stderr.on('data', listen);
  const interrupt = (): void => void child.kill('SIGINT');
  signal.addEventListener('abort', interrupt, { once: true });
  try {
    const how = await ended(child);
    signal.throwIfAborted();
    if (how !== undefined) throw failed(name, how, said);
  } finally {
    signal.removeEventListener('abort', interrupt);
  }
}

/** How it has ended; undefined if well. */
function ended(child: ReturnType<typeof spawn>): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (status, signal) => {
      if (status === 0) resolve(undefined);
      else resolve(status === null ? `was ended by ${signal}` : `ended with exit status ${status}`);
    });
  });
}

function failed(name: string, how: string, said: string): WalcadeError {
  return new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, `${name} ${how}`, {
    detail: describeSaid(said),
  });
}

/** The errors that a program has told with what belongs to them, else its last lines. */
export function describeSaid(said: string): string {
  const lines = said.split('\n').filter((line) => line.trim() !== '');
  const grave = /\b(?:error|fatal|panic|detail|hint): /i;
  const told = lines.filter((line) => grave.test(line));
  const shown = (told.length > 0 ? told : lines).slice(-TOLD_LINES_MAX);
  return shown.length === 0 ? 'It said nothing.' : `It said:\n${shown.join('\n')}`;
}

function programPath({ directory }: ServerPrograms, name: string): string {
  return join(directory, name);
}
