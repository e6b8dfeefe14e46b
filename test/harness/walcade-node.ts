/**
 * A walcade node of a test: the real program `bin/walcade` as a child process.
 *
 * It lives in a TestDirectory, which stops it when the test ends. Any WARNING or worse in its
 * log that the test did not announce with `expectLog` fails the test.
 */
import { execFile } from 'node:child_process';
import { appendFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readStatus } from '../../src/admin/control-client.ts';
import type { NodeStatus } from '../../src/admin/node-status.ts';
import { CONTROL_SOCKET } from '../../src/node/node-directory.ts';
import { formatLsn, type Lsn, parseLsn } from '../../src/wal/lsn.ts';
import { findPostgres } from './postgres-binaries.ts';
import { type LogMark, ServerLog } from './server-log.ts';
import { ServerProcess } from './server-process.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { SqlServer } from './sql-server.ts';
import { type WaitOptions, waitFor } from './wait.ts';

const PROGRAM = fileURLToPath(new URL('../../bin/walcade', import.meta.url));
/** Log lines of WARNING and above, and what Node.js itself warns of. */
const GRAVE = /^.*\[\d+\] (?:WARNING|ERROR|FATAL|PANIC): .*$|^\(node:\d+\) .*Warning: .*$/gm;
/** What a hot standby says of its WAL receiver whenever it is stopped in peace. */
const ORDINARY = /FATAL: {2}terminating walreceiver process due to administrator command$/;
const COMMAND_TIMEOUT_MS = 60_000;

const STOP_SIGNALS = { smart: 'SIGTERM', fast: 'SIGINT', immediate: 'SIGQUIT' } as const;

export interface NodeOptions {
  name: string;
  /** A conninfo of the upstream. */
  upstream: string;
  port?: number;
  /** Take a base backup and attach a server of the tested major. */
  withPostgres?: boolean;
  /** Further arguments of `walcade init`. */
  args?: readonly string[];
  /** Further settings, written at the end of walcade.conf. */
  settings?: Record<string, string | number>;
  environment?: Record<string, string>;
  /** A command that becomes the program named after it, as `ip netns exec NAME` does. */
  launcher?: readonly string[];
}

export interface CommandOutcome {
  code: number;
  stdout: string;
  stderr: string;
}

export class WalcadeNode extends SqlServer implements Member {
  readonly name: string;
  readonly directory: string;
  readonly port: number;
  readonly log: ServerLog;
  readonly #environment: Record<string, string | undefined>;
  readonly #expected = [ORDINARY];
  readonly #launcher: readonly string[];
  #server: ServerProcess | undefined;
  #unaskedExit: string | undefined;

  private constructor(
    tree: TestDirectory,
    port: number,
    options: Pick<NodeOptions, 'name' | 'environment' | 'launcher'>,
  ) {
    super();
    this.name = options.name;
    this.directory = join(tree.path, options.name);
    this.#launcher = options.launcher ?? [];
    this.port = port;
    this.log = new ServerLog(join(tree.path, `${options.name}.log`));
    this.#environment = { ...process.env, NODE_OPTIONS: '', TZ: 'UTC', ...options.environment };
  }

  /** Makes a node with `walcade init`; it is not started. */
  static async init(tree: TestDirectory, options: NodeOptions): Promise<WalcadeNode> {
    const { upstream, withPostgres = false, args = [], settings = {} } = options;
    const node = new WalcadeNode(tree, options.port ?? (await tree.reservePort()), options);
    tree.add(node);
    const init = ['init', '-D', node.directory, '--upstream', upstream, '--port', `${node.port}`];
    if (withPostgres) init.push('--with-postgres', '--postgres-bin', await programDirectory());
    const { code, stdout, stderr } = await node.cli([...init, ...args]);
    if (code !== 0) throw new Error(`walcade init ended with status ${code}\n${stdout}${stderr}`);
    const socketDirectory = await tree.makeDirectory(`${node.name}.s`);
    const everywhere = settingsOfAllNodes();
    await node.configure({ unix_socket_directories: socketDirectory, ...everywhere, ...settings });
    return node;
  }

  /** The node in `directory` of the test's, made by something else than init: adopt, a copy. */
  static async at(tree: TestDirectory, options: Omit<NodeOptions, 'upstream'>) {
    const node = new WalcadeNode(tree, options.port ?? (await tree.reservePort()), options);
    return tree.add(node);
  }

  protected get sqlHost(): string {
    return '127.0.0.1';
  }

  /** What a downstream connects with. */
  get conninfo(): string {
    return `host=127.0.0.1 port=${this.port} user=postgres`;
  }

  get isRunning(): boolean {
    return this.#server !== undefined && this.#server.outcome === undefined;
  }

  get pid(): number {
    return this.#running().pid;
  }

  /** Runs `walcade run` and waits for its line `ready …`; with `wait` false, for nothing. */
  async start({ wait = true, ...options }: WaitOptions & { wait?: boolean } = {}): Promise<void> {
    if (this.isRunning) throw new Error(`${this.name} is running already`);
    let isReady = false;
    const run = [process.execPath, PROGRAM, 'run', '-D', this.directory];
    const [program = '', ...args] = [...this.#launcher, ...run];
    const server = await ServerProcess.spawn({
      name: this.name,
      program,
      args,
      log: this.log,
      environment: this.#environment,
      onLine: (line) => (isReady ||= line.startsWith('ready')),
    });
    this.#server = server;
    if (!wait) return;
    await waitFor(
      `${this.name} to be ready`,
      async () => {
        if (server.outcome !== undefined) throw await server.earlyExit();
        return isReady;
      },
      options,
    );
  }

  /** Stops the node and gives how it ended; nothing if it is not running. */
  async stop(mode: keyof typeof STOP_SIGNALS = 'fast'): Promise<string | undefined> {
    const server = this.#server;
    if (server === undefined) return undefined;
    const closed = this.closeSql();
    const outcome = await server.stop(STOP_SIGNALS[mode]);
    await closed;
    this.#server = undefined;
    return outcome;
  }

  /** Waits for an exit that the node decides on, and gives how it ended. */
  async waitForExit(): Promise<string> {
    const outcome = await this.#running().exit();
    this.#server = undefined;
    return outcome;
  }

  async restart(mode: keyof typeof STOP_SIGNALS = 'fast'): Promise<void> {
    await this.stop(mode);
    await this.start();
  }

  async kill9(): Promise<void> {
    const closed = this.closeSql();
    await this.#running().stop('SIGKILL');
    await closed;
    this.#server = undefined;
  }

  /** Re-reads walcade.conf and walcade_hba.conf. */
  reload(): void {
    this.#running().signal('SIGHUP');
  }

  /** Stops the process in its tracks, as if its machine were frozen, until `thaw`. */
  freeze(): void {
    this.#running().signal('SIGSTOP');
  }

  thaw(): void {
    this.#running().signal('SIGCONT');
  }

  async end(): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    this.#unaskedExit = server.outcome;
    const closed = this.closeSql();
    server.signal('SIGCONT');
    try {
      await server.stop('SIGQUIT', 10_000);
    } finally {
      await server.stop('SIGKILL');
      await closed;
      this.#server = undefined;
    }
  }

  /** Writes settings at the end of walcade.conf, where they win; see also `reload`. */
  async configure(settings: Record<string, string | number>): Promise<void> {
    const lines = Object.entries(settings).map(
      ([name, value]) => `${name} = '${String(value).replaceAll("'", "''")}'\n`,
    );
    await appendFile(join(this.directory, 'walcade.conf'), lines.join(''));
  }

  /** Runs `walcade` with `args` as they are; also a failure is an outcome. */
  async cli(args: readonly string[]): Promise<CommandOutcome> {
    const options = { env: this.#environment, timeout: COMMAND_TIMEOUT_MS, cwd: '/' };
    return new Promise((resolve, reject) => {
      execFile(process.execPath, [PROGRAM, ...args], options, (error, stdout, stderr) => {
        const code = error === null ? 0 : error.code;
        if (typeof code === 'number') resolve({ code, stdout, stderr });
        else
          reject(new Error(`walcade ${args.join(' ')} did not end: ${stderr}`, { cause: error }));
      });
    });
  }

  /** What `walcade status --json` shows, without a process for each look. */
  async status(): Promise<NodeStatus> {
    return readStatus(join(this.directory, CONTROL_SOCKET));
  }

  /** Announces lines of WARNING and above that match `pattern`, so that they are no complaint. */
  expectLog(pattern: RegExp): void {
    this.#expected.push(pattern);
  }

  async waitForLog(
    pattern: RegExp,
    options: WaitOptions & { since?: LogMark } = {},
  ): Promise<void> {
    await this.log.waitFor(pattern, options);
  }

  /** Waits until the node serves all up to `position`, and has it on disk. */
  async waitForWal(position: Lsn, options: WaitOptions = {}): Promise<void> {
    let seen = '';
    await waitFor(
      `${this.name} to serve and flush ${formatLsn(position)}`,
      async () => {
        const { served, flushed } = (await this.status()).positions;
        seen = `served ${served}, flushed ${flushed}`;
        return parseLsn(served) >= position && parseLsn(flushed) >= position;
      },
      options,
    ).catch((error: Error) => {
      throw new Error(`${error.message}; ${seen}`, { cause: error });
    });
  }

  /** The lines of the log that a human would have to look at and the test did not announce. */
  async complaints(): Promise<string[]> {
    const grave = (await this.log.text()).match(GRAVE) ?? [];
    const complaints = grave
      .filter((line) => !this.#expected.some((pattern) => pattern.test(line)))
      .map((line) => `${this.name} logged, unannounced: ${line}`);
    if (this.#unaskedExit !== undefined) {
      complaints.push(`${this.name} ended by itself with ${this.#unaskedExit}`);
    }
    return complaints;
  }

  #running(): ServerProcess {
    if (this.#server === undefined) throw new Error(`${this.name} is not running`);
    return this.#server;
  }
}

/** Every test can be run with other settings: WALCADE_TEST_SETTINGS='link_compression=zstd …'. */
function settingsOfAllNodes(): Record<string, string> {
  const words = (process.env['WALCADE_TEST_SETTINGS'] ?? '').split(' ').filter(Boolean);
  return Object.fromEntries(words.map((word) => word.split('=') as [string, string]));
}

/** Where the programs of the tested major are. */
async function programDirectory(): Promise<string> {
  return dirname((await findPostgres()).postgres);
}
