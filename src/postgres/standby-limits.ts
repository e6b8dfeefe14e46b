/**
 * The parameters that a hot standby must not have lower than its primary (manual, "Hot Standby",
 * Administrator's Overview): where the server's own files have one lower than its WAL asks for, it
 * would not start, so it is started with what the WAL asks for.
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

/** What of these parameters has to be raised, by name; nothing where it cannot be told. */
export async function raisedLimits(place: ServerPlace): Promise<Record<string, string>> {
  const raised: Record<string, string> = {};
  for (const [name, needed] of Object.entries(await neededLimits(place))) {
    const configured = await configuredValue(place, name);
    if (configured !== undefined && configured < needed) raised[name] = String(needed);
  }
  return raised;
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
