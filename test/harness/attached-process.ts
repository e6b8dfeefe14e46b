/**
 * An attached server in a process of its own, as a node would run it, so that a test can kill it:
 * run as a program, this file is that process. It prints each status as a line of JSON; its log
 * and the server's go to standard error. SIGTERM stops the server, SIGQUIT abandons it.
 *
 * Its WAL receiver connects to a primary's own socket instead of a node's.
 */
import { execFile } from 'node:child_process';
import { chown, copyFile, mkdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { systemClock } from '../../src/base/clock.ts';
import { createLog, formatLogEntry } from '../../src/base/log.ts';
import {
  AttachedServer,
  type AttachedState,
  type AttachedStatus,
} from '../../src/postgres/attached-server.ts';
import { runningServer } from '../../src/postgres/postmaster-pid.ts';
import { readServerRole } from '../../src/postgres/server-role.ts';
import { type ServerSettingsOptions, serverSettings } from '../../src/postgres/server-settings.ts';
import { copyDirectory } from './file-backup.ts';
import { findPostgres, postgresUser, testedMajor } from './postgres-binaries.ts';
import type { PostgresCluster } from './postgres-cluster.ts';
import { cleanEnvironment } from './postgres-place.ts';
import { ServerLog } from './server-log.ts';
import { ServerProcess } from './server-process.ts';
import { SqlClient } from './sql-client.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { waitFor } from './wait.ts';

const run = promisify(execFile);

const HBA = 'local all all trust\nlocal replication all trust\n';

interface ProcessOptions {
  settings: ServerSettingsOptions;
  programDirectory: string;
}

export interface AttachedProcessOptions {
  name: string;
  /** A base backup; it is copied and stays as it is. */
  from: string;
  primary: PostgresCluster;
  /** Names of directories, if they are to be odd. */
  sqlSocketName?: string;
  walName?: string;
}

export class AttachedProcess implements Member {
  readonly name: string;
  readonly log: ServerLog;
  readonly settings: ServerSettingsOptions;
  /** Where `postgres` is; a test may name another place for the next start. */
  programDirectory: string;
  #statuses: AttachedStatus[] = [];
  #process: ServerProcess | undefined;

  private constructor(
    tree: TestDirectory,
    name: string,
    { settings, programDirectory }: ProcessOptions,
  ) {
    this.name = name;
    this.settings = settings;
    this.programDirectory = programDirectory;
    this.log = new ServerLog(join(tree.path, `${name}.log`));
  }

  /** Makes the data directory of a standby and what belongs to it; nothing is started. */
  static async make(
    tree: TestDirectory,
    options: AttachedProcessOptions,
  ): Promise<AttachedProcess> {
    const { name, from, primary, sqlSocketName = 'sql', walName = 'pg_wal' } = options;
    const place = await tree.makeDirectory(name);
    const makeOwn = async (directory: string): Promise<string> => {
      const path = join(place, directory);
      await mkdir(path, { mode: 0o700 });
      await giveAway(path);
      return path;
    };
    const dataDirectory = await makeOwn('data');
    await copyDirectory(from, dataDirectory, await postgresUser());
    await writeFile(join(dataDirectory, 'standby.signal'), '');
    await giveAway(join(dataDirectory, 'standby.signal'));
    await writeFile(join(place, 'pg_hba.conf'), HBA);
    await writeFile(join(place, 'pg_ident.conf'), '');
    const { postgres } = await findPostgres();
    const settings: ServerSettingsOptions = {
      major: testedMajor(),
      dataDirectory,
      hbaFile: join(place, 'pg_hba.conf'),
      identFile: join(place, 'pg_ident.conf'),
      sqlSocketDirectory: await makeOwn(sqlSocketName),
      walSocketDirectory: primary.socketDirectory,
      walDirectory: await makeOwn(walName),
      port: primary.port,
      clusterName: name,
    };
    const attached = new AttachedProcess(tree, name, {
      settings,
      programDirectory: dirname(postgres),
    });
    return tree.add(attached);
  }

  get #place(): string {
    return dirname(this.dataDirectory);
  }

  get dataDirectory(): string {
    return this.settings.dataDirectory;
  }

  /** The process that runs the attached server. */
  get process(): ServerProcess {
    if (this.#process === undefined) throw new Error(`${this.name} is not running`);
    return this.#process;
  }

  /** As it was told last. */
  get status(): AttachedStatus | undefined {
    return this.#statuses.at(-1);
  }

  /** The states since the start, each once in a row. */
  get states(): AttachedState[] {
    const states = this.#statuses.map(({ state }) => state);
    return states.filter((state, index) => state !== states[index - 1]);
  }

  /** Starts the process; with `wait`, until the server is ready. */
  async start({ wait = true }: { wait?: boolean } = {}): Promise<void> {
    const { settings, programDirectory } = this;
    const options: ProcessOptions = { settings, programDirectory };
    this.#statuses = [];
    this.#process = await ServerProcess.spawn({
      name: this.name,
      program: process.execPath,
      args: ['--import', import.meta.resolve('tsx'), fileURLToPath(import.meta.url)].concat(
        JSON.stringify(options),
      ),
      log: this.log,
      environment: cleanEnvironment(),
      onLine: (line) => this.#statuses.push(JSON.parse(line) as AttachedStatus),
    });
    if (wait) await this.waitForState('ready');
  }

  /** Resolves to the status, once it has this state. */
  async waitForState(state: AttachedState): Promise<AttachedStatus> {
    return waitFor(`${this.name} to be ${state}`, async () => {
      if (this.process.outcome !== undefined) throw await this.process.earlyExit();
      return this.status?.state === state ? this.status : undefined;
    });
  }

  async sql(text: string): Promise<string> {
    const client = SqlClient.pooled(this.settings.sqlSocketDirectory, this.settings.port);
    try {
      return await client.run(text);
    } finally {
      await client.close();
    }
  }

  /** Stops the server with the process; resolves to how the process ended. */
  async stop(): Promise<string> {
    return this.process.stop('SIGTERM');
  }

  /** Kills the process, not the server. */
  async kill9(): Promise<void> {
    await this.process.stop('SIGKILL');
  }

  /** Resolves when no server runs in the data directory. */
  async waitUntilGone(): Promise<void> {
    await waitFor(`the server of ${this.name} to be gone`, async () => {
      return (await runningServer(this.dataDirectory)) === undefined;
    });
  }

  /** What still runs for it, as command lines: the server, its watcher, the process itself. */
  async traces(): Promise<{ pid: number; command: string }[]> {
    const { stdout } = await run('ps', ['-axww', '-o', 'pid=,command=']);
    const lines = stdout.split('\n').filter((line) => line.includes(this.#place));
    return lines.map((line) => {
      const [, pid, command = ''] = /^\s*(\d+)\s+(.*)$/.exec(line) ?? [];
      return { pid: Number(pid), command };
    });
  }

  /** Copies `file` into the node's pg_wal, where the server's user may read it. */
  async addWal(file: string): Promise<void> {
    const copy = join(this.settings.walDirectory, basename(file));
    await copyFile(file, copy);
    await giveAway(copy);
  }

  async end(): Promise<void> {
    await this.#process?.stop('SIGTERM');
    await this.waitUntilGone();
  }
}

async function giveAway(path: string): Promise<void> {
  const user = await postgresUser();
  if (user !== undefined) await chown(path, user.uid, user.gid);
}

/** Runs the attached server until a signal comes. */
async function runAsProgram({ settings, programDirectory }: ProcessOptions): Promise<void> {
  const write = (text: string): void => void process.stderr.write(text);
  const log = createLog(
    (entry) => write(formatLogEntry(entry, { clock: systemClock, processId: process.pid })),
    { minimum: () => 'log' },
  );
  const { major, dataDirectory } = settings;
  const server = new AttachedServer({
    programs: { major, version: String(major), directory: programDirectory },
    dataDirectory,
    user: await postgresUser(),
    role: await readServerRole(dataDirectory),
    socketDirectory: settings.sqlSocketDirectory,
    settings: () => serverSettings(settings),
    clock: systemClock,
    log,
    onLogLines: write,
  });
  const stop = new AbortController();
  process.on('SIGTERM', () => stop.abort(new Error('asked to stop')));
  process.on('SIGQUIT', () => server.abandon());
  server.changed.listen(() => process.stdout.write(`${JSON.stringify(server.status)}\n`));
  try {
    await server.run(stop.signal);
  } catch (error) {
    log.fatal(error);
    process.exitCode = 1;
  }
}

const [, program, argument] = process.argv;
if (program === fileURLToPath(import.meta.url) && argument !== undefined) {
  await runAsProgram(JSON.parse(argument) as ProcessOptions);
}
