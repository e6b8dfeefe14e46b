/** The command line: what each command takes, and which exit status its outcome has. */
import { readFileSync } from 'node:fs';
import { isAbsolute, resolve } from 'node:path';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { asWalcadeError } from '../base/errors.ts';
import { checkNodeDirectory } from '../node/node-directory.ts';
import { parseLsn } from '../wal/lsn.ts';
import { printError } from './terminal.ts';

const DIRECTORY: [string, string] = ['-D, --directory <dir>', "the node's directory"];
const USAGE_EXIT_STATUS = 2;

const EXAMPLES = `
A relay of a primary, served on port 4002:

  walcade init -D relay --upstream 'host=db1 port=5432 user=replicator' --port 4002
  walcade start -D relay
  walcade status -D relay
`;

/** No timer runs longer. */
const SECONDS_MAX = 2_000_000;

function seconds(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1 || value > SECONDS_MAX) {
    const range = `from 1 to ${SECONDS_MAX}`;
    throw new InvalidArgumentError(`It must be a whole number of seconds, ${range}.`);
  }
  return value;
}

function lsnArgument(text: string) {
  try {
    return parseLsn(text);
  } catch (error) {
    throw new InvalidArgumentError(asWalcadeError(error).message);
  }
}

/** `OLD=NEW` of --tablespace-mapping, added to those before; `\\=` stands for a `=` in a path. */
function tablespaceMapping(text: string, before: Map<string, string>): Map<string, string> {
  const [from, to, ...more] = text.split(/(?<!\\)=/).map((path) => path.replaceAll('\\=', '='));
  if (from === undefined || to === undefined || more.length > 0) {
    throw new InvalidArgumentError('It must be of the form OLD=NEW.');
  }
  if (!isAbsolute(from) || !isAbsolute(to)) {
    throw new InvalidArgumentError('Both directories must be absolute paths.');
  }
  // Without the slashes that they may end with.
  return new Map([...before, [resolve(from), resolve(to)]]);
}

interface NewNodeFlags {
  directory: string;
  upstream: string;
  name?: string;
  port?: string;
  listen?: string;
  slot?: string | boolean;
  postgresBin?: string;
}

interface InitFlags extends NewNodeFlags {
  startLsn?: ReturnType<typeof parseLsn>;
  withPostgres: boolean;
  tablespaceMapping: Map<string, string>;
  keep: boolean;
}

interface RejoinFlags {
  directory: string;
  upstream: string;
  postgresBin?: string;
  tablespaceMapping: Map<string, string>;
  yes: boolean;
}

const TABLESPACE_MAPPING: [string, string, typeof tablespaceMapping, Map<string, string>] = [
  '--tablespace-mapping <old=new>',
  'put a tablespace elsewhere than on the upstream; may be repeated',
  tablespaceMapping,
  new Map(),
];

/** Options that every way of making a node has. */
function newNodeOptions(command: Command): Command {
  return command
    .option('--name <name>', "application_name and slot name (default: the directory's name)")
    .option('--port <port>', 'port to listen on (default: 5432)')
    .option('--listen <addresses>', 'listen_addresses (default: localhost)')
    .addOption(new Option('--slot <name>', 'name of the slot to make on the upstream'))
    .addOption(new Option('--no-slot', 'make no slot'))
    .option('--postgres-bin <dir>', "where PostgreSQL's programs are (default: looked for)");
}

function choiceOf({ directory, upstream, name, port, listen, slot }: NewNodeFlags) {
  return {
    directory,
    upstream,
    name,
    port,
    listenAddresses: listen,
    slot: slot === true ? undefined : slot,
  };
}

function createProgram(onStatus: (status: number) => void): Command {
  const program = new Command('walcade')
    .description('Cascading streaming replication for PostgreSQL.')
    .version(`walcade ${version()}`, '-V, --version', 'show the version')
    .addHelpText('after', EXAMPLES)
    .configureOutput({ outputError: (text, write) => write(`walcade: ${text}`) })
    .exitOverride();
  addNewNodeCommands(program);
  program
    .command('run')
    .description('run a node in the foreground, with its log on stderr')
    .requiredOption(...DIRECTORY)
    .action(async ({ directory }: { directory: string }) => {
      await checkNodeDirectory(directory);
      const { runCommand } = await import('./run-command.ts');
      onStatus(await runCommand(directory));
    });
  addRejoinCommand(program, onStatus);
  addControlCommands(program);
  program
    .command('status')
    .description('show what a node does; exit status 3 when it is stopped')
    .requiredOption(...DIRECTORY)
    .option('--json', 'as JSON', false)
    .action(async ({ directory, json }: { directory: string; json: boolean }) => {
      const { statusCommand } = await import('./status-command.ts');
      onStatus(await statusCommand(directory, { json }));
    });
  program
    .command('timelines')
    .description('show which timeline forked where, and which segments of each are kept')
    .requiredOption(...DIRECTORY)
    .option('--json', 'as JSON', false)
    .action(async ({ directory, json }: { directory: string; json: boolean }) => {
      const { timelinesCommand } = await import('./timelines-command.ts');
      onStatus(await timelinesCommand(directory, { json }));
    });
  program
    .command('remove')
    .description("drop a stopped node's slot on the upstream, then delete its directory")
    .requiredOption(...DIRECTORY)
    .option('--yes', 'do not ask', false)
    .action(async ({ directory, yes }: { directory: string; yes: boolean }) => {
      const { removeCommand } = await import('./remove-command.ts');
      onStatus(await removeCommand(directory, { yes }));
    });
  addWalCommands(program, onStatus);
  hintAtHelp(program, 'walcade');
  return program;
}

function addNewNodeCommands(program: Command): void {
  const init = program
    .command('init')
    .description('make a node that receives WAL from an upstream')
    .requiredOption(...DIRECTORY)
    .requiredOption('--upstream <conninfo>', 'connection string of the upstream');
  newNodeOptions(init)
    .option('--start-lsn <lsn>', 'where the store begins', lsnArgument)
    .option('--with-postgres', 'take a base backup, and run a hot standby on it', false)
    .option(...TABLESPACE_MAPPING)
    .option('--keep', 'leave what came of a base backup that broke off', false)
    .action(async (flags: InitFlags) => {
      const { initCommand } = await import('./init-command.ts');
      const { startLsn, withPostgres, tablespaceMapping: mapping, keep } = flags;
      checkPostgresFlags(init, flags);
      const bin = flags.postgresBin === undefined ? {} : { binDirectory: flags.postgresBin };
      const postgres = { ...bin, tablespaceMapping: mapping, keep };
      await initCommand({ ...choiceOf(flags), startLsn, ...(withPostgres ? { postgres } : {}) });
    });
  const adopt = program
    .command('adopt')
    .description('make a node around an existing data directory')
    .requiredOption(...DIRECTORY)
    .requiredOption('--data <dir>', 'the data directory, which stays where it is')
    .requiredOption('--upstream <conninfo>', 'connection string of the upstream');
  newNodeOptions(adopt).action(async (flags: NewNodeFlags & { data: string }) => {
    const { adoptCommand } = await import('./adopt-command.ts');
    const { data: dataDirectory, postgresBin: binDirectory } = flags;
    await adoptCommand({ ...choiceOf(flags), dataDirectory, binDirectory });
  });
}

function addRejoinCommand(program: Command, onStatus: (status: number) => void): void {
  program
    .command('rejoin')
    .description("make a former primary's stopped node a standby of the server that was promoted")
    .requiredOption(...DIRECTORY)
    .requiredOption('--upstream <conninfo>', 'connection string of the upstream')
    .option('--postgres-bin <dir>', "where PostgreSQL's programs are (default: as before)")
    .option(...TABLESPACE_MAPPING)
    .option('--yes', 'do not ask', false)
    .action(async (flags: RejoinFlags) => {
      const { rejoinCommand } = await import('./rejoin-command.ts');
      const { postgresBin: binDirectory, ...others } = flags;
      onStatus(await rejoinCommand({ ...others, binDirectory }));
    });
}

/** Options that say nothing without a server, or nothing with one, are mistakes. */
function checkPostgresFlags(
  init: Command,
  { withPostgres, postgresBin, keep, ...flags }: InitFlags,
): void {
  const refuse = (message: string): never => init.error(`error: ${message}`);
  if (withPostgres) {
    if (flags.startLsn !== undefined) refuse('--start-lsn cannot be used with --with-postgres');
    return;
  }
  if (postgresBin !== undefined) refuse('--postgres-bin needs --with-postgres');
  if (flags.tablespaceMapping.size > 0) refuse('--tablespace-mapping needs --with-postgres');
  if (keep) refuse('--keep needs --with-postgres');
}

/** A mistake in the use of a command is followed by where its help is. */
function hintAtHelp(command: Command, usage: string): void {
  command.showHelpAfterError(`HINT:  Try "${usage} --help".`);
  for (const inner of command.commands) hintAtHelp(inner, `${usage} ${inner.name()}`);
}

/** The package's version; the file is as far from here in src as in dist. */
function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

function addControlCommands(program: Command): void {
  const timeout: [string, string, typeof seconds, number] = [
    '-t, --timeout <seconds>',
    'how long to wait',
    seconds,
    60,
  ];
  const log: [string, string] = [
    '-l, --log <file>',
    "file for the log (default: walcade.log in the node's directory)",
  ];
  const mode: [string, string, string] = ['-m, --mode <mode>', 'fast or immediate', 'fast'];
  program
    .command('start')
    .description('start a node in the background and wait until it serves')
    .requiredOption(...DIRECTORY)
    .option(...log)
    .option(...timeout)
    .action(async (flags: { directory: string; log?: string; timeout: number }) => {
      const { startCommand } = await import('./control-commands.ts');
      const { directory, timeout: timeoutSeconds } = flags;
      await startCommand(directory, { logFile: flags.log, timeoutSeconds });
    });
  program
    .command('stop')
    .description('stop a node: fast sends what is left, immediate does not wait')
    .requiredOption(...DIRECTORY)
    .option(...mode)
    .option(...timeout)
    .action(async (flags: { directory: string; mode: string; timeout: number }) => {
      const { stopCommand } = await import('./control-commands.ts');
      const { directory, timeout: timeoutSeconds } = flags;
      await stopCommand(directory, { mode: flags.mode, timeoutSeconds });
    });
  program
    .command('restart')
    .description('stop a node if it is running, and start it')
    .requiredOption(...DIRECTORY)
    .option(...mode)
    .option(...log)
    .option(...timeout)
    .action(async (flags: { directory: string; mode: string; log?: string; timeout: number }) => {
      const { startCommand, stopCommand } = await import('./control-commands.ts');
      const { runningPid } = await import('../node/node-lock.ts');
      const { directory, timeout: timeoutSeconds } = flags;
      await checkNodeDirectory(directory);
      if ((await runningPid(directory)) !== undefined) {
        await stopCommand(directory, { mode: flags.mode, timeoutSeconds });
      }
      await startCommand(directory, { logFile: flags.log, timeoutSeconds });
    });
  program
    .command('promote')
    .description('make the server of a node a primary; downstreams stay connected')
    .requiredOption(...DIRECTORY)
    .option('--force', 'promote also a node that is behind its upstream', false)
    .option(...timeout)
    .action(async (flags: { directory: string; force: boolean; timeout: number }) => {
      const { promoteCommand } = await import('./request-commands.ts');
      const { directory, force, timeout: timeoutSeconds } = flags;
      await promoteCommand(directory, { force, timeoutSeconds });
    });
  program
    .command('follow')
    .description('have a running node follow another upstream; downstreams stay connected')
    .argument('<conninfo>', 'connection string of the upstream')
    .requiredOption(...DIRECTORY)
    .action(async (conninfo: string, { directory }: { directory: string }) => {
      const { followCommand } = await import('./follow-command.ts');
      await followCommand(directory, conninfo);
    });
  program
    .command('reload')
    .description('have a running node read its configuration files again')
    .requiredOption(...DIRECTORY)
    .action(async ({ directory }: { directory: string }) => {
      const { reloadCommand } = await import('./request-commands.ts');
      await reloadCommand(directory);
    });
}

function addWalCommands(program: Command, onStatus: (status: number) => void): void {
  const wal = program.command('wal').description('look at stored WAL');
  const where = '[folder]';
  const about = "a node's directory, or any folder of segments (default: this one)";
  wal
    .command('ls')
    .description('list the segments')
    .argument(where, about, '.')
    .option('-D, --directory <dir>', "the node's directory")
    .option('--json', 'as JSON', false)
    .action(async (folder: string, flags: { directory?: string; json: boolean }) => {
      const { listWal } = await import('./wal-commands.ts');
      onStatus(await listWal(flags.directory ?? folder, { json: flags.json }));
    });
  wal
    .command('verify')
    .description('prove every page and record; exit status 1 when something is damaged')
    .argument(where, about, '.')
    .option('-D, --directory <dir>', "the node's directory")
    .action(async (folder: string, flags: { directory?: string }) => {
      const { verifyWal } = await import('./wal-commands.ts');
      onStatus(await verifyWal(flags.directory ?? folder));
    });
}

/** Runs the command that `argv` (without node and script) asks for; resolves to the exit status. */
export async function main(argv: readonly string[]): Promise<number> {
  let status = 0;
  const program = createProgram((value) => {
    status = value;
  });
  try {
    await program.parseAsync(argv, { from: 'user' });
    return status;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : USAGE_EXIT_STATUS;
    printError(error);
    return 1;
  }
}
