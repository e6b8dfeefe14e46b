/**
 * The parameters that a hot standby must not have lower than its primary (manual, "Hot Standby",
 * Administrator's Overview): where the server's own files have one lower than its WAL asks for, it
 * would not start, so it is started with what the WAL asks for.
 *
 * Where they are raised on the primary while the server runs, it pauses replay (xlogrecovery.c,
 * RecoveryRequiresIntParameter(); 13 shuts down) until it is started with higher ones.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { readControlData } from './control-data.ts';
import { serverEnvironment } from './server-environment.ts';
import type { ServerPrograms } from './server-programs.ts';
import type { ServerUser } from './server-user.ts';

const run = promisify(execFile);

export interface ServerPlace {
  programs: ServerPrograms;
  dataDirectory: string;
  user: ServerUser | undefined;
}

/** What a start of the server gives it of these parameters, by name; only what can be told. */
export interface StandbyLimits {
  values: Record<string, number>;
  /** Those that its files have lower, for the command line. */
  raised: Record<string, string>;
}

/** As it would be at a start now. */
export async function standbyLimits(place: ServerPlace): Promise<StandbyLimits> {
  const limits: StandbyLimits = { values: {}, raised: {} };
  for (const [name, needed] of Object.entries(await neededLimits(place))) {
    const configured = await configuredValue(place, name);
    if (configured === undefined) continue;
    limits.values[name] = Math.max(configured, needed);
    if (configured < needed) limits.raised[name] = String(needed);
  }
  return limits;
}

/** What another start would raise above what the server has since `before`, by name. */
export function higherLimits(
  now: StandbyLimits,
  before: StandbyLimits,
): { name: string; value: number }[] {
  return Object.entries(now.values)
    .map(([name, value]) => ({ name, value }))
    .filter(({ name, value }) => value > (before.values[name] ?? Number.POSITIVE_INFINITY));
}

/** A pg_control that cannot be read is told by the server's start, as errors of its files are. */
async function neededLimits({ dataDirectory }: ServerPlace): Promise<Record<string, number>> {
  try {
    return (await readControlData(dataDirectory)).limits;
  } catch {
    return {};
  }
}

/** As the configuration files have it; undefined if they have errors. */
async function configuredValue(
  { programs, dataDirectory, user }: ServerPlace,
  name: string,
): Promise<number | undefined> {
  try {
    const { stdout } = await run(
      join(programs.directory, 'postgres'),
      ['-D', dataDirectory, '-C', name],
      { cwd: '/', env: serverEnvironment(process.env, user), ...user },
    );
    return Number(stdout);
  } catch {
    return undefined;
  }
}
