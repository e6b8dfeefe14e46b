/**
 * A base backup over the replication protocol (manual, "Streaming Replication Protocol",
 * BASE_BACKUP), as pg_basebackup takes it, without WAL: that comes by streaming.
 *
 * It goes from the connection to the disk in the pieces in which it comes, each written before the
 * next is read. Nothing is believed before the manifest is: until then it may all be removed again.
 * It ends with everything durable, or with nothing left and the connection closed.
 */
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { formatBytes } from '../base/format-bytes.ts';
import { BACKEND, decodeDataRow } from '../protocol/backend-messages.ts';
import { type ReplicationClient, singleValue } from '../protocol/client.ts';
import { ConnectionLost } from '../protocol/connection.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import { encodeQuery } from '../protocol/frontend-messages.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';
import { type ArchivePart, type ManifestPart, readBackupParts } from './backup-archives.ts';
import {
  type BackupForm,
  backupForm,
  formatBackupCommand,
  parseBackupContents,
  parseBackupPosition,
} from './backup-command.ts';
import { ManifestComparison, type ReceivedFiles } from './backup-manifest.ts';
import { BackupProgress, type Progress } from './backup-progress.ts';
import {
  BackupDirectories,
  type BackupTarget,
  type PlacedTablespace,
  chooseTargets,
} from './backup-targets.ts';
import { unpackArchive } from './backup-unpacking.ts';
import { DurableFiles } from './durable-files.ts';
import type { ServerUser } from './server-user.ts';

export { removeTablespaces } from './backup-targets.ts';

export interface BaseBackupOptions {
  /** The sending server's server_version_num: it decides between the command's two forms. */
  serverVersionNum: number;
  /** Made by us, or there and empty; absolute. */
  directory: string;
  /**
   * Tablespace locations on the sending server, and where they go here (both absolute, no trailing
   * slash). Others go where they are there.
   */
  tablespaceMapping: ReadonlyMap<string, string>;
  /** Who owns what is made; undefined: we do. */
  user: ServerUser | undefined;
  label: string;
  /** By which `onProgress` is not told too often. */
  clock: Clock;
  onProgress?: (progress: Progress) => void;
  signal: AbortSignal;
}

export interface BaseBackup {
  /** From here on WAL is needed. */
  start: Lsn;
  timeline: TimelineId;
  /** Up to here it is needed before a server on the backup is consistent. */
  end: Lsn;
  endTimeline: TimelineId;
  /** The length of all archives. */
  bytes: number;
  /** The tablespaces of the cluster besides the data directory: where they were put. */
  tablespaces: PlacedTablespace[];
}

/**
 * Takes a base backup over `client`, a physical replication connection with nothing under way. All
 * of it is on disk (fsync) when it resolves. On any failure, or when `signal` aborts, the
 * connection is closed, and nothing that was made is left unless `keepOnFailure`.
 *
 * Throws the server's errors; what is wrong with the targets, before anything is made (22023,
 * 53100, 58P01, 58P02); 08006 for a lost connection; 08P01 for what is no base backup, XX001 for
 * one that is not what its manifest says; the disk's errors; the signal's reason.
 */
export async function takeBaseBackup(
  client: ReplicationClient,
  options: BaseBackupOptions & { keepOnFailure: boolean },
): Promise<BaseBackup> {
  const { signal } = options;
  signal.throwIfAborted();
  const closeConnection = (): void => client.connection.close();
  signal.addEventListener('abort', closeConnection, { once: true });
  try {
    return await new Taking(client, options).run();
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    signal.removeEventListener('abort', closeConnection);
  }
}

/** One backup under way. */
class Taking {
  readonly #client: ReplicationClient;
  readonly #options: BaseBackupOptions & { keepOnFailure: boolean };
  readonly #files: DurableFiles;
  readonly #received: ReceivedFiles = new Map();
  #directories: BackupDirectories | undefined;
  #progress: BackupProgress | undefined;

  constructor(client: ReplicationClient, options: BaseBackupOptions & { keepOnFailure: boolean }) {
    this.#client = client;
    this.#options = options;
    this.#files = new DurableFiles(options.user);
  }

  async run(): Promise<BaseBackup> {
    try {
      return await this.#take();
    } catch (error) {
      throw await this.#undo(this.#describeLoss(error));
    }
  }

  async #take(): Promise<BaseBackup> {
    const { directory, tablespaceMapping: mapping, serverVersionNum } = this.#options;
    const { label, user, clock } = this.#options;
    const systemIdentifier = await identifySystem(this.#client);
    const form = backupForm(serverVersionNum);
    await this.#client.connection.send(encodeQuery(formatBackupCommand(label, form)));
    const start = parseBackupPosition(await readRows(this.#client));
    const contents = parseBackupContents(await readRows(this.#client));
    const targets = chooseTargets(contents, { directory, mapping });
    const directories = await BackupDirectories.check(targets);
    this.#directories = directories;
    const totalBytes = targets.reduce((sum, { bytes }) => sum + bytes, 0);
    const report = this.#options.onProgress ?? (() => {});
    const progress = new BackupProgress(totalBytes, clock, report);
    this.#progress = progress;
    for (const path of await directories.make()) this.#files.syncLater(path);
    const oids = contents.tablespaces.map(({ oid }) => oid);
    await this.#receive({ targets, oids, form, systemIdentifier });
    const results = await this.#client.results();
    const end = parseBackupPosition(results[0]?.rows ?? []);
    await this.#files.finish();
    // Once all has come, nobody would notice that the connection is closed.
    this.#options.signal.throwIfAborted();
    if (user !== undefined) await directories.giveTo(user);
    progress.finish();
    return {
      start: start.lsn,
      timeline: start.timeline,
      end: end.lsn,
      endTimeline: end.timeline,
      bytes: progress.doneBytes,
      tablespaces: directories.tablespaces,
    };
  }

  async #receive({
    targets,
    oids,
    form,
    systemIdentifier,
  }: {
    targets: readonly BackupTarget[];
    /** Of the tablespaces, in the order in which the server sends them. */
    oids: readonly string[];
    form: BackupForm;
    systemIdentifier: bigint;
  }): Promise<void> {
    const parts = readBackupParts(() => this.#client.next(), { form, oids });
    for await (const part of parts) {
      if (part.kind === 'archive') await this.#unpack(part, targets);
      else await this.#compare(part, systemIdentifier);
    }
  }

  async #unpack({ oid, chunks }: ArchivePart, targets: readonly BackupTarget[]): Promise<void> {
    const isData = oid === undefined;
    const target = targets.find(({ tablespace }) => tablespace?.oid === oid);
    const links = targets.map((each) => [each.tablespace?.oid ?? '', each.directory] as const);
    await unpackArchive(this.#counted(chunks), {
      directory: target?.directory ?? this.#options.directory,
      links: isData ? new Map(links) : undefined,
      manifestPrefix: isData ? '' : `pg_tblspc/${oid}/`,
      files: this.#files,
      received: this.#received,
      giveUp: () => this.#client.connection.close(),
    });
  }

  /** Keeps the manifest, as pg_basebackup does, and compares what has come with it. */
  async #compare({ chunks }: ManifestPart, systemIdentifier: bigint): Promise<void> {
    const comparison = new ManifestComparison(this.#received, systemIdentifier);
    async function* compared(): AsyncGenerator<Buffer> {
      for await (const chunk of chunks) {
        comparison.push(chunk);
        yield chunk;
      }
    }
    const path = `${this.#options.directory}/backup_manifest`;
    await this.#files.makeFile(path, 0o600, compared());
    comparison.end();
  }

  async *#counted(chunks: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
    for await (const chunk of chunks) {
      this.#progress?.add(chunk.length);
      yield chunk;
    }
  }

  /** Ends what is under way and removes what was made; gives the error to throw. */
  async #undo(error: unknown): Promise<unknown> {
    this.#client.connection.close();
    await this.#files.abandon();
    if (this.#options.keepOnFailure) return error;
    try {
      await this.#directories?.remove();
      return error;
    } catch (failure) {
      const { sqlstate, message, detail } = asWalcadeError(error);
      const left = `${asWalcadeError(failure).message}.`;
      return new WalcadeError(sqlstate, message, {
        detail: detail === undefined ? left : `${detail}\n${left}`,
        hint: 'Remove what is left of the base backup.',
        cause: error,
      });
    }
  }

  #describeLoss(error: unknown): unknown {
    if (!(error instanceof ConnectionLost)) return error;
    const { doneBytes = 0, totalBytes = 0 } = this.#progress ?? {};
    const came = `${formatBytes(doneBytes)} of about ${formatBytes(totalBytes)} had come.`;
    return new WalcadeError(
      SQLSTATE.CONNECTION_FAILURE,
      'connection to upstream was lost during the base backup',
      {
        detail: this.#progress === undefined ? 'Nothing of it had come.' : came,
        hint: 'Take the base backup again.',
        cause: error,
      },
    );
  }
}

async function identifySystem(client: ReplicationClient): Promise<bigint> {
  const identifier = singleValue(await client.query('IDENTIFY_SYSTEM'), 0) ?? '';
  if (/^\d{1,20}$/.test(identifier)) return BigInt(identifier);
  throw new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    'could not identify system: invalid response from upstream',
    { detail: `Got system identifier "${identifier}".` },
  );
}

/** The rows of the next result set; nothing behind it is read. */
async function readRows(client: ReplicationClient): Promise<(Buffer | null)[][]> {
  const rows: (Buffer | null)[][] = [];
  for (;;) {
    const { type, body } = await client.next();
    if (type === BACKEND.COMMAND_COMPLETE) return rows;
    if (type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(body);
    // The row outlives the buffer that it was read into.
    if (type === BACKEND.DATA_ROW) rows.push(decodeDataRow(Buffer.from(body)));
    else if (type !== BACKEND.ROW_DESCRIPTION) {
      throw new WalcadeError(
        SQLSTATE.PROTOCOL_VIOLATION,
        `unexpected message type 0x${type.toString(16).padStart(2, '0')} from server`,
      );
    }
  }
}
