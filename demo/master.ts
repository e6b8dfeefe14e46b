/**
 * The master of the demo: plain PostgreSQL, made by initdb and run in the background by pg_ctl, by
 * an ordinary user. The demo's directory ends it.
 */
import { appendFile, chown, mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { runningServer } from '../src/postgres/postmaster-pid.ts';
import type { ServerUser } from '../src/postgres/server-user.ts';
import { findPostgres, postgresUser } from '../test/harness/postgres-binaries.ts';
import { killTree } from '../test/harness/process-tree.ts';
import { ServerLog } from '../test/harness/server-log.ts';
import { SqlServer } from '../test/harness/sql-server.ts';
import type { Member, TestDirectory } from '../test/harness/test-directory.ts';
import { runCommand } from './command.ts';
import { showCommand, showEdit } from './screen.ts';

interface MasterPlace {
  port: number;
  signal: AbortSignal;
  /** Of the demo; the data directory is in it and has the master's name. */
  directory: string;
  programs: string;
  user: ServerUser | undefined;
}

export class DemoMaster extends SqlServer implements Member {
  readonly name = 'master';
  readonly log: ServerLog;
  readonly #place: MasterPlace;

  private constructor(place: MasterPlace) {
    super();
    this.#place = place;
    this.log = new ServerLog(join(this.#dataDirectory, 'server.log'));
  }

  /** A master that is in the care of `tree`, and not made yet. */
  static async prepare(
    tree: TestDirectory,
    options: { port: number; signal: AbortSignal },
  ): Promise<DemoMaster> {
    const programs = dirname((await findPostgres()).postgres);
    const user = await postgresUser();
    return tree.add(new DemoMaster({ ...options, directory: tree.path, programs, user }));
  }

  get port(): number {
    return this.#place.port;
  }

  protected get sqlHost(): string {
    return '127.0.0.1';
  }

  async init(): Promise<void> {
    const { user, signal } = this.#place;
    await mkdir(this.#dataDirectory, { mode: 0o700 });
    if (user !== undefined) await chown(this.#dataDirectory, user.uid, user.gid);
    const options = ['-U', 'postgres', '-A', 'trust', '-E', 'UTF8', '--locale=C', '--no-sync'];
    await this.#run(['initdb', '-D', this.name, ...options], signal);
  }

  /** Writes settings at the end of postgresql.conf, where they win. */
  async configure(settings: Record<string, string | number>): Promise<void> {
    const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
    showEdit(
      join(this.name, 'postgresql.conf'),
      lines.map((after) => ({ after })),
    );
    await appendFile(join(this.#dataDirectory, 'postgresql.conf'), `${lines.join('\n')}\n`);
  }

  async start(): Promise<void> {
    const log = ['-l', join(this.name, 'server.log')];
    await this.#run(['pg_ctl', '-D', this.name, ...log, 'start'], this.#place.signal);
  }

  async end(): Promise<void> {
    await this.closeSql();
    const server = await runningServer(this.#dataDirectory);
    if (server === undefined) return;
    const { programs, directory, user } = this.#place;
    const stop = ['-D', this.name, '-m', 'immediate', 'stop'];
    await runCommand([join(programs, 'pg_ctl'), ...stop], { directory, user }).catch(() =>
      killTree(server.pid),
    );
  }

  async #run([name = '', ...args]: readonly string[], signal: AbortSignal): Promise<void> {
    const { programs, directory, user } = this.#place;
    showCommand([name, ...args]);
    await runCommand([join(programs, name), ...args], { directory, user, signal });
  }

  get #dataDirectory(): string {
    return join(this.#place.directory, this.name);
  }
}
