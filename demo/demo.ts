/**
 * `npm run demo`: a cascade of real servers on this machine, through which a row travels.
 *
 *   --once          leave when everything was shown; status 0 only if every step held
 *   --base-port N   the first of six ports in a row (default 4001)
 *   --keep          leave the directory with all servers' files in place
 *
 * Everything is in one temporary directory, which is removed at the end, Ctrl-C included.
 */
import { chmod, mkdtemp, realpath } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { pc } from '../src/cli/colors.ts';
import { asWalcadeError } from '../src/base/errors.ts';
import { TestDirectory } from '../test/harness/test-directory.ts';
import { Cascade, SERVER_NAMES, portOf, takenPorts } from './cascade.ts';
import { drawTree } from './tree-view.ts';

const USAGE = 'usage: npm run demo -- [--once] [--base-port N] [--keep]';
const BASE_PORT_MAX = 65_535 - SERVER_NAMES.length + 1;
const LABEL_COLUMNS = 58;

interface Choice {
  once: boolean;
  keep: boolean;
  basePort: number;
}

class UsageError extends Error {}

process.exitCode = await main(process.argv.slice(2));

async function main(argv: readonly string[]): Promise<number> {
  try {
    return await run(parseChoice(argv));
  } catch (error) {
    const { message, detail, hint } = asWalcadeError(error);
    say(`\n${pc.red('error:')} ${message}`);
    if (detail !== undefined) say(`DETAIL:  ${detail}`);
    if (hint !== undefined) say(`HINT:  ${hint}`);
    return error instanceof UsageError ? 2 : 1;
  }
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

async function run({ once, keep, basePort }: Choice): Promise<number> {
  const taken = await takenPorts(basePort);
  if (taken.length > 0) {
    const which = taken.length === 1 ? `port ${taken[0]} is` : `ports ${taken.join(', ')} are`;
    const other = basePort < 40_000 ? basePort + 10_000 : basePort - 10_000;
    say(`${pc.red('error:')} ${which} taken`);
    say(`HINT:  Choose six other ports in a row, as in: npm run demo -- --base-port ${other}`);
    return 1;
  }
  const parent = process.env['WALCADE_DEMO_DIRECTORY'] ?? (await realpath(tmpdir()));
  const directory = await mkdtemp(join(parent, 'walcade-demo-'));
  await chmod(directory, 0o755);
  const tree = TestDirectory.standalone(directory);
  const interruption = new Promise<'interrupted'>((resolve) => {
    for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.once(name, () => resolve('interrupted'));
    }
  });
  const cascade = new Cascade(tree, { basePort });
  const steps = show(cascade);
  try {
    const outcome = await Promise.race([steps, interruption]);
    if (outcome === 'interrupted') return 1;
    if (!once) {
      say(pc.dim('Ctrl-C ends the demo.'));
      await interruption;
    }
    return 0;
  } catch (error) {
    await tree.showLogs('the demo failed');
    throw error;
  } finally {
    say(pc.dim(`\nstopping all servers${keep ? '' : `, removing ${directory}`}`));
    await tree.remove({ keep });
    // An interrupted step ends with the servers it waits for.
    await steps.catch(() => {});
    if (keep) say(`everything is left in ${directory}`);
  }
}

/** Builds the cascade and sends a row through it, a line for each step that held. */
async function show(cascade: Cascade): Promise<'shown'> {
  say(`${pc.bold('walcade')}: one primary, two relays, three standbys\n`);
  await step('a PostgreSQL primary', () => cascade.startPrimary());
  await step('a relay below the primary: walcade init, walcade run', () => cascade.startRelay());
  await step('a second relay below the first', () => cascade.startRelay2());
  await step('two standbys below the first relay, one below the second', () =>
    cascade.startStandbys(),
  );
  const { primary, standbys } = cascade;
  await step('on the primary: create table i (x int4)', async () => {
    await primary.sql('CREATE TABLE i (x int4)');
    await Promise.all(standbys.map((standby) => standby.waitForCatchup(primary)));
  });
  const startedMs = performance.now();
  await step('on the primary: insert into i values (123)', async () => {
    await primary.sql('INSERT INTO i VALUES (123)');
  });
  const times = await cascade.timeUntil('SELECT x FROM i', '123', startedMs);
  for (const [name, ms] of times) {
    report(`on ${name}: select x from i → 123`, `${ms.toFixed(1)} ms`);
  }
  const settled = await cascade.settledTree();
  say(`\n${drawTree(settled)}\n`);
  say('A standby is where it has replayed to, a relay where it has flushed to.\n');
  suggest(cascade);
  return 'shown';
}

function suggest({ primary, relay }: Cascade): void {
  const psql = (port: number, sql: string): string =>
    `  psql -h 127.0.0.1 -p ${port} -U postgres -c '${sql}'`;
  const basePort = primary.port;
  say('Try, in another terminal:\n');
  say(psql(basePort, 'insert into i values (456)'));
  say(psql(portOf('standby3', basePort), 'select * from i'));
  say(`  bin/walcade status -D ${relay.directory}`);
  say(`  bin/walcade wal verify ${relay.directory}`);
  say('');
}

async function step(what: string, action: () => Promise<void>): Promise<void> {
  const startedMs = performance.now();
  await action();
  report(what, `${((performance.now() - startedMs) / 1000).toFixed(1)} s`);
}

function report(what: string, figure: string): void {
  say(`${pc.green('✓')} ${what.padEnd(LABEL_COLUMNS)}${pc.dim(figure.trimEnd())}`);
}

function say(text: string): void {
  process.stdout.write(`${text}\n`);
}
