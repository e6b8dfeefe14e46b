/**
 * PostgreSQL's own client tools, where the machine has them: a test may use one in addition to
 * what it proves everywhere, and says in its output whether it did.
 */
import { execFile } from 'node:child_process';
import { access, constants, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { PostgresBinaries } from './postgres-binaries.ts';

const run = promisify(execFile);

/** Where Debian and its relatives install each major, in a directory of its number. */
const INSTALLATIONS = '/usr/lib/postgresql';
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

/** An installed PostgreSQL with all its programs, server and tools of one version. */
export interface PostgresTools {
  readonly major: number;
  /** The server of this version, which all of these tools fit. */
  readonly binaries: PostgresBinaries;
  path(tool: string): string;
  /** Runs a tool to its end; rejects with its output unless it exits with status 0. */
  run(tool: string, args: readonly string[]): Promise<{ stdout: string; stderr: string }>;
}

/** The newest installation that has all of `names`; undefined if there is none. */
export async function findTools(names: readonly string[]): Promise<PostgresTools | undefined> {
  const versions = await readdir(INSTALLATIONS).catch(() => []);
  const majors = versions.map(Number).filter((major) => major >= 13 && major <= 18);
  for (const major of majors.sort((a, b) => b - a)) {
    const bin = join(INSTALLATIONS, String(major), 'bin');
    const wanted = ['initdb', 'postgres', ...names].map((name) => join(bin, name));
    const present = await Promise.all(wanted.map(isExecutable));
    if (present.every(Boolean)) return toolsIn(bin, major);
  }
  return undefined;
}

function toolsIn(bin: string, major: number): PostgresTools {
  const path = (tool: string): string => join(bin, tool);
  return {
    major,
    binaries: { major, initdb: path('initdb'), postgres: path('postgres') },
    path,
    run: (tool, args) => run(path(tool), [...args], { cwd: '/', maxBuffer: OUTPUT_BYTES_MAX }),
  };
}

async function isExecutable(path: string): Promise<boolean> {
  return access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}
