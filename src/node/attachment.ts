/**
 * What ties the attached PostgreSQL server to its node: its process, the two private sockets, and
 * where its recovery would begin.
 *
 * It is opened before the node listens and lives as long as `run`. The node serves WAL also while
 * the server is down or replays; what happens to the server ends nothing here.
 */
import { resolve } from 'node:path';
import type { Duplex } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { NodeConfig } from '../config/parameters.ts';
import { ReplicationClient } from '../protocol/client.ts';
import type { Listener, Network } from '../protocol/network.ts';
import { AttachedServer } from '../postgres/attached-server.ts';
import { readControlData } from '../postgres/control-data.ts';
import { readMajor } from '../postgres/data-directory.ts';
import { readRecoveryStart } from '../postgres/recovery-start.ts';
import { type ServerPrograms, findServerPrograms } from '../postgres/server-programs.ts';
import { restoreRequest, serverSettings } from '../postgres/server-settings.ts';
import { readServerRole } from '../postgres/server-role.ts';
import { type ServerUser, serverUser } from '../postgres/server-user.ts';
import type { ControlData } from '../store/control-file.ts';
import { WAL_DIRECTORY } from '../store/wal-store.ts';
import type { Lsn } from '../wal/lsn.ts';
import type { AttachedDoor } from './front-door.ts';
import { openToServer } from './open-to-server.ts';
import { type PrivateDirectory, openPrivateDirectory } from './private-directory.ts';
import { NO_NODE } from './upstream-connector.ts';

export interface AttachmentOptions {
  directory: string;
  config: NodeConfig;
  /** Of the node: its server is of the same cluster and major version. */
  control: Readonly<ControlData>;
  network: Network;
  clock: Clock;
  log: Log;
  onLogLines: (text: string) => void;
}

/** Long enough for a server that forks under load, short enough to ask the upstream instead. */
const CONNECT_TIMEOUT_MS = 10_000;

export class Attachment implements AttachedDoor {
  readonly server: AttachedServer;
  readonly programs: ServerPrograms;
  readonly dataDirectory: string;
  /** Who runs it, if that is another user than the node's. */
  readonly user: ServerUser | undefined;
  readonly #options: AttachmentOptions;
  readonly #sockets: PrivateDirectory;
  #redo: Lsn;

  private constructor(
    options: AttachmentOptions,
    parts: {
      dataDirectory: string;
      programs: ServerPrograms;
      user: ServerUser | undefined;
      sockets: PrivateDirectory;
      redo: Lsn;
      role: 'standby' | 'primary';
    },
  ) {
    const { clock, log, onLogLines } = options;
    const { dataDirectory, programs, user, sockets, role } = parts;
    this.#options = options;
    this.#sockets = sockets;
    this.#redo = parts.redo;
    this.programs = programs;
    this.user = user;
    this.dataDirectory = dataDirectory;
    this.server = new AttachedServer({
      programs,
      dataDirectory,
      user,
      role,
      socketDirectory: sockets.sqlSockets,
      settings: () => this.#settings(),
      clock,
      log: log.child('attached server'),
      onLogLines,
    });
  }

  /** Throws when there is no such server, or the data directory is not of this node's cluster. */
  static async open(options: AttachmentOptions): Promise<Attachment> {
    const { directory, config, control } = options;
    const dataDirectory = resolve(directory, config.dataDirectory);
    const major = await readMajor(dataDirectory);
    const data = await readControlData(dataDirectory);
    checkSameCluster({ major, systemIdentifier: data.systemIdentifier }, control);
    const user = await serverUser(dataDirectory);
    const binDirectory = config.postgresBinDirectory || undefined;
    const programs = await findServerPrograms({ major, directory: binDirectory, user });
    if (user !== undefined) await openToServer(directory, user);
    const sockets = await openPrivateDirectory(directory, { user });
    const redo = await readRecoveryStart(dataDirectory);
    const role = await readServerRole(dataDirectory);
    return new Attachment(options, { dataDirectory, programs, user, sockets, redo, role });
  }

  /** From where on the server needs WAL if it starts now, as last read. */
  get redo(): Lsn {
    return this.#redo;
  }

  /** By which its restore_command asks before it copies. */
  get restoreRequest(): string {
    return restoreRequest({ walSocketDirectory: this.#sockets.walSockets });
  }

  /** Reads it anew. Throws what readRecoveryStart() throws. */
  async readRedo(): Promise<Lsn> {
    this.#redo = await readRecoveryStart(this.dataDirectory);
    return this.#redo;
  }

  /** Listens for the server's WAL receiver. */
  async listen(accept: (socket: Duplex) => void): Promise<Listener> {
    const { network, config } = this.#options;
    const address = { host: this.#sockets.walSockets, port: config.port };
    this.#sockets.ensureLink();
    try {
      // Its directory lets nobody else in.
      return await network.listen(address, { accept: (socket) => accept(socket), mode: 0o777 });
    } catch (error) {
      await this.#sockets.removeLink();
      throw error;
    }
  }

  /** A connection to the server's socket, for a client's session. */
  async connect(signal: AbortSignal): Promise<Duplex> {
    const { network, config } = this.#options;
    this.#sockets.ensureLink();
    return network.connect({ host: this.#sockets.sqlSockets, port: config.port }, signal);
  }

  /** A physical replication connection to the server, as `user`. */
  connectReplication(user: string, signal: AbortSignal): Promise<ReplicationClient> {
    const { network, clock, log, config } = this.#options;
    return ReplicationClient.connect({
      network,
      clock,
      addresses: [{ host: this.#sockets.sqlSockets, port: config.port }],
      user,
      password: () => undefined,
      allowsAuthentication: () => true,
      sessionAttributes: 'any',
      parameters: { replication: 'true', application_name: config.clusterName, ...NO_NODE },
      connectTimeoutMs: CONNECT_TIMEOUT_MS,
      signal,
      onNotice: ({ message }) => log.log(`notice from the attached server: ${message}`),
    });
  }

  /** Resolves once the server answers SQL; rejects with the signal's reason. */
  async whenReady(signal: AbortSignal): Promise<void> {
    while (this.server.status.state !== 'ready') await this.server.changed.wait(signal);
  }

  /** Runs the server until `signal` aborts and it has shut down. */
  async run(signal: AbortSignal): Promise<void> {
    try {
      await this.server.run(signal);
    } finally {
      await this.#sockets.removeLink();
    }
  }

  #settings(): Record<string, string> {
    const { directory, config } = this.#options;
    this.#sockets.ensureLink();
    return serverSettings({
      major: this.programs.major,
      dataDirectory: this.dataDirectory,
      hbaFile: this.#sockets.hbaFile,
      identFile: this.#sockets.identFile,
      sqlSocketDirectory: this.#sockets.sqlSockets,
      walSocketDirectory: this.#sockets.walSockets,
      walDirectory: resolve(directory, WAL_DIRECTORY),
      port: config.port,
      clusterName: config.clusterName,
    });
  }
}

function checkSameCluster(
  server: { major: number; systemIdentifier: bigint },
  { systemIdentifier, upstreamSettings }: Readonly<ControlData>,
): void {
  if (server.systemIdentifier !== systemIdentifier) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      'database system identifier differs between the data directory and this node',
      {
        detail:
          `The data directory's identifier is ${server.systemIdentifier}, ` +
          `this node's identifier is ${systemIdentifier}.`,
        hint: 'Set "data_directory" to the one that belongs to this node.',
      },
    );
  }
  const major = Math.floor(Number(upstreamSettings['server_version_num'] ?? 0) / 10_000);
  if (server.major === major) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory is of PostgreSQL ${server.major}, this node's WAL of PostgreSQL ${major}`,
    { hint: 'WAL can be replayed by the same major version only.' },
  );
}
