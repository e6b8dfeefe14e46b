/**
 * A PostgreSQL server of a test, in the manner of PostgreSQL's own PostgreSQL::Test::Cluster:
 * made by initdb or from a base backup, started, stopped, crashed, promoted and asked with SQL.
 *
 * It lives in a TestDirectory, which stops it when the test ends. Its settings are those of a
 * server that is as fast as may be and a sending server for many: see SETTINGS.
 */
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { copyDirectory, takeBackup } from './file-backup.ts';
import { type PostgresBinaries, postgresUser } from './postgres-binaries.ts';
import { makeCluster } from './postgres-initdb.ts';
import { type Place, choosePlace, cleanEnvironment } from './postgres-place.ts';
import { killTree } from './process-tree.ts';
import { ServerLog } from './server-log.ts';
import { ServerProcess } from './server-process.ts';
import { SqlClient } from './sql-client.ts';
import { SqlServer } from './sql-server.ts';
import type { Member, TestDirectory } from './test-directory.ts';
import { type WaitOptions, waitFor } from './wait.ts';

export type Settings = Record<string, string | number | boolean>;
export type StopMode = 'smart' | 'fast' | 'immediate';

const STOP_SIGNALS: Record<StopMode, NodeJS.Signals> = {
  smart: 'SIGTERM',
  fast: 'SIGINT',
  immediate: 'SIGQUIT',
};

const SETTINGS: Settings = {
  listen_addresses: '127.0.0.1',
  max_connections: 30,
  shared_buffers: '16MB',
  huge_pages: false,
  dynamic_shared_memory_type: 'mmap',
  fsync: false,
  wal_level: 'replica',
  max_wal_senders: 20,
  max_replication_slots: 20,
  wal_keep_size: '256MB',
  hot_standby: true,
  wal_retrieve_retry_interval: '100ms',
  restart_after_crash: false,
  logging_collector: false,
  log_line_prefix: '%m [%p] %q%a ',
  log_replication_commands: true,
  log_timezone: 'UTC',
};

export interface ClusterOptions {
  name: string;
  /** Where the data directory is to be; in the test's directory if not given. */
  directory?: string;
  segmentMegabytes?: number;
  /** Where the configuration files are to be, as Debian has them, if not with the data. */
  configDirectory?: string;
  settings?: Settings;
  /** Lines of pg_hba.conf instead of "trust everybody"; the socket always trusts. */
  hba?: readonly string[];
  major?: number;
  /** Another PostgreSQL than the package's. */
  binaries?: PostgresBinaries | undefined;
  /** A port that the caller knows to be free; else one is reserved. */
  port?: number;
}

export interface StandbyOptions {
  name: string;
  /** A base backup; it is copied and stays as it is. */
  from: string;
  /** `primary_conninfo`, to which `application_name` is added. */
  upstreamConninfo: string;
  directory?: string;
  /** `primary_slot_name`. */
  slot?: string;
  settings?: Settings;
  major?: number;
  /** Another PostgreSQL than the package's. */
  binaries?: PostgresBinaries | undefined;
  /** A port that the caller knows to be free; else one is reserved. */
  port?: number;
}

export class PostgresCluster extends SqlServer implements Member {
  readonly name: string;
  readonly dataDirectory: string;
  readonly socketDirectory: string;
  readonly port: number;
  readonly log: ServerLog;
  readonly binaries: PostgresBinaries;
  readonly #environment: Record<string, string>;
  #configDirectory: string;
  #server: ServerProcess | undefined;

  private constructor(tree: TestDirectory, name: string, place: Place) {
    super();
    this.name = name;
    this.dataDirectory = place.dataDirectory;
    this.socketDirectory = place.socketDirectory;
    this.port = place.port;
    this.binaries = place.binaries;
    this.#configDirectory = place.dataDirectory;
    this.log = new ServerLog(join(tree.path, `${name}.log`));
    this.#environment = cleanEnvironment();
  }

  /** Makes a new cluster with superuser `postgres`; it is not started. */
  static async init(tree: TestDirectory, options: ClusterOptions): Promise<PostgresCluster> {
    const { name, directory, segmentMegabytes = 16, configDirectory, settings = {}, hba } = options;
    const place = await choosePlace(tree, { ...options, name, directory });
    await makeCluster(tree, place.binaries, place.dataDirectory, {
      segmentMegabytes,
      environment: cleanEnvironment(),
    });
    const cluster = new PostgresCluster(tree, name, place);
    if (configDirectory !== undefined) await cluster.#moveConfiguration(configDirectory);
    await cluster.configure({ ...SETTINGS, ...cluster.#ownSettings(), ...settings });
    if (hba !== undefined) await cluster.writeHba(hba);
    return tree.add(cluster);
  }

  /** Makes a hot standby from a base backup; it is not started. */
  static async standby(tree: TestDirectory, options: StandbyOptions): Promise<PostgresCluster> {
    const { name, from, upstreamConninfo, directory, slot, settings = {} } = options;
    const place = await choosePlace(tree, { ...options, name, directory });
    await copyDirectory(from, place.dataDirectory, await postgresUser());
    const cluster = new PostgresCluster(tree, name, place);
    await cluster.configure({
      ...SETTINGS,
      ...cluster.#ownSettings(),
      primary_conninfo: cluster.#upstreamSetting(upstreamConninfo),
      primary_slot_name: slot ?? '',
      ...settings,
    });
    await cluster.becomeStandby();
    return tree.add(cluster);
  }

  protected get sqlHost(): string {
    return this.socketDirectory;
  }

  /** A connection string for this server over TCP, without a database. */
  get conninfo(): string {
    return `host=127.0.0.1 port=${this.port} user=postgres`;
  }

  get isRunning(): boolean {
    return this.#server !== undefined && this.#server.outcome === undefined;
  }

  /** The postmaster's process id. */
  get pid(): number {
    return this.#running().pid;
  }

  /**
   * Starts the server and waits until it accepts connections; with `wait` false, for nothing,
   * which is for a standby whose upstream cannot bring it to consistency yet.
   */
  async start({ wait = true }: { wait?: boolean } = {}): Promise<void> {
    if (this.isRunning) throw new Error(`${this.name} is running already`);
    this.#server = await ServerProcess.spawn({
      name: this.name,
      program: this.binaries.postgres,
      args: ['-D', this.dataDirectory, '-c', `config_file=${this.#configFile('postgresql.conf')}`],
      log: this.log,
      environment: this.#environment,
      user: await postgresUser(),
    });
    if (wait) await this.waitUntilReady();
  }

  /** Waits until the server accepts connections; an error with its log if it exits instead. */
  async waitUntilReady(options: WaitOptions = {}): Promise<void> {
    const server = this.#running();
    await waitFor(
      `${this.name} to accept connections`,
      async () => {
        if (server.outcome !== undefined) throw await server.earlyExit();
        return this.#isReady(server.pid);
      },
      options,
    );
  }

  /** Stops the server and waits for its exit; nothing if it is not running. */
  async stop(mode: StopMode = 'fast'): Promise<void> {
    const server = this.#server;
    if (server === undefined) return;
    const closed = this.closeSql();
    await server.stop(STOP_SIGNALS[mode]);
    await closed;
    this.#server = undefined;
  }

  async restart(mode: StopMode = 'fast'): Promise<void> {
    await this.stop(mode);
    await this.start();
  }

  /** Kills the whole server, as a crash of the machine's kernel would but for its page cache. */
  async kill9(): Promise<void> {
    const server = this.#running();
    const closed = this.closeSql();
    await killTree(server.pid);
    await server.exit();
    await closed;
    this.#server = undefined;
  }

  async end(): Promise<void> {
    if (this.isRunning) this.#running().signal('SIGCONT');
    await this.stop('immediate');
  }

  /** Re-reads the configuration files. */
  reload(): void {
    this.#running().signal('SIGHUP');
  }

  /** Ends recovery and waits until the server takes writes. */
  async promote(): Promise<void> {
    await this.sql('SELECT pg_promote(true, 60)');
    await this.waitForSql('SELECT pg_is_in_recovery()', 'f');
  }

  /** Writes settings at the end of postgresql.conf, where they win; see also `reload`. */
  async configure(settings: Settings): Promise<void> {
    const lines = Object.entries(settings).map(([name, value]) => {
      const text = typeof value === 'boolean' ? (value ? 'on' : 'off') : String(value);
      return `${name} = '${text.replaceAll("'", "''")}'\n`;
    });
    await fs.appendFile(this.#configFile('postgresql.conf'), lines.join(''));
  }

  /** Replaces pg_hba.conf; connections over the socket stay trusted. */
  async writeHba(lines: readonly string[]): Promise<void> {
    const text = ['local all all trust', 'local replication all trust', ...lines].join('\n');
    await fs.writeFile(this.#configFile('pg_hba.conf'), `${text}\n`);
  }

  /** Writes a new `primary_conninfo`; it takes effect by `reload` or at the next start. */
  async setUpstream(conninfo: string): Promise<void> {
    await this.configure({ primary_conninfo: this.#upstreamSetting(conninfo) });
  }

  /** Writes standby.signal: the next start is that of a standby. */
  async becomeStandby(): Promise<void> {
    const file = join(this.dataDirectory, 'standby.signal');
    await fs.writeFile(file, '');
    const user = await postgresUser();
    if (user !== undefined) await fs.chown(file, user.uid, user.gid);
  }

  /** The process id of the WAL receiver; undefined if there is none. */
  async walReceiverPid(): Promise<number | undefined> {
    const pid = await this.sql('SELECT pid FROM pg_stat_wal_receiver');
    return pid === '' ? undefined : Number(pid);
  }

  /** Makes a base backup in `directory`, a new directory of the test's, and gives its path. */
  async backup(directory: string): Promise<string> {
    const client = await SqlClient.single(this.socketDirectory, this.port);
    try {
      await takeBackup(client, this.dataDirectory, directory, {
        major: this.binaries.major,
        user: await postgresUser(),
      });
    } finally {
      await client.close();
    }
    return directory;
  }

  #running(): ServerProcess {
    if (this.#server === undefined) throw new Error(`${this.name} is not running`);
    return this.#server;
  }

  /** postmaster.pid tells what `pg_ctl -w` waits for: line 1 the process id, line 8 its state. */
  async #isReady(pid: number): Promise<boolean> {
    const text = await fs
      .readFile(join(this.dataDirectory, 'postmaster.pid'), 'utf8')
      .catch(() => '');
    const lines = text.split('\n');
    return lines[0] === String(pid) && ['ready', 'standby'].includes(lines[7]?.trim() ?? '');
  }

  #configFile(name: string): string {
    return join(this.#configDirectory, name);
  }

  async #moveConfiguration(directory: string): Promise<void> {
    const names = ['postgresql.conf', 'pg_hba.conf', 'pg_ident.conf'];
    for (const name of names) await fs.rename(this.#configFile(name), join(directory, name));
    this.#configDirectory = directory;
    await this.configure({
      data_directory: this.dataDirectory,
      hba_file: this.#configFile('pg_hba.conf'),
      ident_file: this.#configFile('pg_ident.conf'),
    });
  }

  #ownSettings(): Settings {
    const sync: Settings = this.binaries.major >= 18 ? { io_method: 'sync' } : {};
    return { ...sync, port: this.port, unix_socket_directories: this.socketDirectory };
  }

  #upstreamSetting(conninfo: string): string {
    return `${conninfo} application_name=${this.name}`;
  }
}
