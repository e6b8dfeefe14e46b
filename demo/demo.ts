/**
 * `npm run demo`: a cascade of real servers on this machine, built with the commands that a person
 * would use, and a row that travels through it.
 *
 *   --once          leave when everything was shown; status 0 only if every step held
 *   --base-port N   the first of four ports in a row (default 4001)
 *   --keep          leave the directory with all servers' files in place
 *
 * Everything is in one temporary directory, which is removed at the end, Ctrl-C included.
 */
import { once } from 'node:events';
import { chmod, mkdtemp, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { asWalcadeError } from '../src/base/errors.ts';
import { pc } from '../src/cli/colors.ts';
import { TestDirectory } from '../test/harness/test-directory.ts';
import { takenPorts } from './ports.ts';
import { say } from './screen.ts';
import { portsOf, tellStory } from './steps.ts';

const USAGE = 'usage: npm run demo -- [--once] [--base-port N] [--keep]';
const BASE_PORT_MAX = 65_536 - portsOf(0).length;

interface Choice {
  once: boolean;
  keep: boolean;
  basePort: number;
}

class UsageError extends Error {}

process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  const signal = interruption();
  // What the user's environment says of other servers is not for these.
  for (const name of Object.keys(process.env)) if (name.startsWith('PG')) delete process.env[name];
  try {
    return await run(parseChoice(argv), signal);
  } catch (error) {
    const { message, detail, hint } = asWalcadeError(error);
    say(`\n${pc.red('error:')} ${message}`);
    if (detail !== undefined) say(`DETAIL:  ${detail}`);
    if (hint !== undefined) say(`HINT:  ${hint}`);
    return error instanceof UsageError ? 2 : 1;
  }
}

/** Aborts at a signal, and when nobody reads any more; either changes nothing later on. */
function interruption(): AbortSignal {
  const controller = new AbortController();
  const interrupt = (): void => controller.abort(new Error('interrupted'));
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, interrupt);
  for (const stream of [process.stdout, process.stderr]) stream.on('error', interrupt);
  return controller.signal;
}

function parseChoice(argv: readonly string[]): Choice {
  const options = {
    once: { type: 'boolean', default: false },
    keep: { type: 'boolean', default: false },
    'base-port': { type: 'string', default: '4001' },
  } as const;
  let values;
  try {
    ({ values } = parseArgs({ args: [...argv], options }));
  } catch (error) {
    throw new UsageError(`${asWalcadeError(error).message}\n${USAGE}`);
  }
  const basePort = Number(values['base-port']);
  if (!Number.isInteger(basePort) || basePort < 1 || basePort > BASE_PORT_MAX) {
    throw new UsageError(`--base-port must be a number from 1 to ${BASE_PORT_MAX}\n${USAGE}`);
  }
  return { once: values.once, keep: values.keep, basePort };
}

async function run(
  { once: isShort, keep, basePort }: Choice,
  signal: AbortSignal,
): Promise<number> {
  const taken = await takenPorts(portsOf(basePort));
  if (taken.length > 0) return refuseTaken(taken, basePort);
  const parent = process.env['WALCADE_DEMO_DIRECTORY'] ?? (await realpath(tmpdir()));
  const directory = await mkdtemp(join(parent, 'walcade-demo-'));
  // PostgreSQL's user, if that is another one, has to get in.
  await chmod(directory, 0o755);
  const tree = TestDirectory.standalone(directory);
  say(`${pc.bold('walcade')}: cascading streaming replication for PostgreSQL`);
  say(`Everything is in ${directory}, and the commands are run there.`);
  let status = 0;
  try {
    await tellStory(tree, { basePort, signal });
    if (!isShort) await untilInterrupted(signal);
  } catch (error) {
    status = 1;
    if (!signal.aborted) {
      await tree.showLogs('the demo failed');
      throw error;
    }
  } finally {
    say(pc.dim(`\nstopping all servers${keep ? '' : `, removing ${directory}`}`));
    for (const complaint of await tree.remove({ keep })) {
      say(`${pc.red('error:')} ${complaint}`);
      status = 1;
    }
    if (keep) say(`everything is left in ${directory}`);
  }
  return status;
}

async function untilInterrupted(signal: AbortSignal): Promise<void> {
  say(pc.dim('\nCtrl-C ends the demo.'));
  // Nothing else keeps the process alive if a server's connections are closed.
  const alive = setInterval(() => {}, 60_000);
  if (!signal.aborted) await once(signal, 'abort');
  clearInterval(alive);
}

function refuseTaken(taken: readonly number[], basePort: number): number {
  const which = taken.length === 1 ? `port ${taken[0]} is` : `ports ${taken.join(', ')} are`;
  const other = basePort < 40_000 ? basePort + 10_000 : basePort - 10_000;
  say(`${pc.red('error:')} ${which} taken`);
  say(`HINT:  Choose four other ports in a row, as in: npm run demo -- --base-port ${other}`);
  return 1;
}
