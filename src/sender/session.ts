/**
 * One replication session of a downstream: from the accepted startup packet to its end.
 *
 * It answers one command after the other. An error ends the command, and with it the session's
 * temporary slots; a fatal one ends the session. It lives as long as its connection, or until the
 * node stops.
 */
import type { Timer } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import {
  encodeAuthentication,
  encodeBackendKeyData,
  encodeParameterStatus,
  encodeReadyForQuery,
} from '../protocol/backend-messages.ts';
import type { Connection } from '../protocol/connection.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { decodeQuery } from '../protocol/frontend-messages.ts';
import type { Message } from '../protocol/message-reader.ts';
import { FRONTEND } from '../protocol/message-type.ts';
import { LINK_COMPRESSION, type LinkCompression } from '../protocol/node-parameters.ts';
import {
  type ReplicationCommand,
  parseReplicationCommand,
} from '../protocol/replication-command.ts';
import type { Zstd } from '../protocol/zstd.ts';
import { BackupRelay } from './backup-relay.ts';
import type { Downstream } from './downstreams.ts';
import {
  createSlot,
  describeTimelineHistory,
  identifySystem,
  readSlot,
  show,
  timelineHistory,
} from './replication-answers.ts';
import { type SenderContext, serverVersionNum } from './sender-context.ts';
import { ReplicationTimeout } from './status-listener.ts';
import { type SenderOutcome, WalSender } from './wal-sender.ts';
import { encodeCommandComplete } from '../protocol/backend-messages.ts';

export interface SessionOptions {
  connection: Connection;
  downstream: Downstream;
  context: SenderContext;
  /** The key with which the downstream may cancel its command. */
  cancelKey: Buffer;
  clientEncoding: string | undefined;
  /** Whether the downstream is a node. */
  isNode: boolean;
  /** What the downstream has asked for, as it is granted; undefined if it has not asked. */
  compression: { zstd: Zstd | undefined } | undefined;
  /** Aborts when the node stops in peace. */
  stopping: AbortSignal;
  log: Log;
}

/** How long a downstream may take for the last words of a session that has ended. */
const LINGER_MS = 5000;

const EXTENDED_QUERY = new Set<number>([
  FRONTEND.PARSE,
  FRONTEND.BIND,
  FRONTEND.DESCRIBE,
  FRONTEND.EXECUTE,
  FRONTEND.CLOSE,
]);

export class SenderSession {
  readonly #options: SessionOptions;
  readonly #connection: Connection;
  readonly #downstream: Downstream;
  readonly #context: SenderContext;
  readonly #backups: BackupRelay;
  readonly #log: Log;
  /** Present while a command runs that can be cancelled. */
  #running: AbortController | undefined;
  #skipsToSync = false;
  #toldInHotStandby: 'on' | 'off' | undefined;

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#connection = options.connection;
    this.#downstream = options.downstream;
    this.#context = options.context;
    this.#log = options.log;
    this.#backups = new BackupRelay(options.context, options.connection);
  }

  /** Cancels the command that runs, as a CancelRequest asks for. */
  cancel(): void {
    this.#running?.abort(
      new WalcadeError(SQLSTATE.QUERY_CANCELED, 'canceling statement due to user request'),
    );
  }

  /** Runs the session to its end; what ends it is told to the downstream and logged here. */
  async run(): Promise<void> {
    const { stopping } = this.#options;
    const { clock } = this.#context;
    let limit: Timer | undefined;
    const stop = (): void => {
      // A streaming session is drained first; any other command, or none, ends at once.
      if (this.#downstream.state === 'startup' || this.#downstream.state === 'backup') {
        this.#running?.abort(shutdown());
        this.#connection.stopReading(shutdown());
        // What is being sent now may never be taken, say by a backup's client that is stuck.
        limit ??= clock.setTimer(LINGER_MS, () => this.#connection.close());
      }
    };
    try {
      await this.#connection.send(this.#greeting());
      stopping.addEventListener('abort', stop, { once: true });
      if (stopping.aborted) stop();
      while ((await this.#answer(await this.#connection.next())) === 'ready') {
        // A copy that the downstream ended while the node stopped leaves a session that is idle.
        if (stopping.aborted) stop();
      }
    } catch (error) {
      await this.#end(error);
    } finally {
      stopping.removeEventListener('abort', stop);
      this.#context.slots.dropTemporary(this.#downstream.pid);
      await this.#backups.close();
      await this.#connection.end({ clock, lingerMs: LINGER_MS });
      limit?.cancel();
    }
  }

  /** AuthenticationOk, the parameters that clients look at, the cancel key, ReadyForQuery. */
  #greeting(): Buffer[] {
    this.#toldInHotStandby = this.#inHotStandby;
    const settings = this.#context.upstreamSettings();
    const version = serverVersionNum(this.#context);
    const { applicationName, user, pid } = this.#downstream;
    const serverEncoding = settings['server_encoding'] ?? 'UTF8';
    const parameters: Record<string, string> = {
      application_name: applicationName,
      client_encoding: this.#options.clientEncoding ?? serverEncoding,
      DateStyle: 'ISO, MDY',
      integer_datetimes: settings['integer_datetimes'] ?? 'on',
      IntervalStyle: 'postgres',
      is_superuser: 'off',
      server_encoding: serverEncoding,
      server_version: settings['server_version'] ?? '',
      session_authorization: user,
      standard_conforming_strings: 'on',
      TimeZone: 'UTC',
      ...(version >= 140_000
        ? { default_transaction_read_only: 'off', in_hot_standby: this.#inHotStandby }
        : {}),
      ...(version >= 160_000 ? { scram_iterations: '4096' } : {}),
      ...this.#grantedCompression,
      ...(version >= 180_000 ? { search_path: '"$user", public' } : {}),
    };
    return [
      encodeAuthentication({ kind: 'ok' }),
      ...Object.entries(parameters).map(([name, value]) => encodeParameterStatus(name, value)),
      encodeBackendKeyData(pid, this.#options.cancelKey),
      encodeReadyForQuery(),
    ];
  }

  /** What the greeting told and is so no more: told before the next ReadyForQuery, as in guc.c. */
  #changedParameters(): Buffer[] {
    if (serverVersionNum(this.#context) < 140_000) return [];
    const told = this.#toldInHotStandby;
    this.#toldInHotStandby = this.#inHotStandby;
    if (told === this.#toldInHotStandby) return [];
    return [encodeParameterStatus('in_hot_standby', this.#toldInHotStandby)];
  }

  get #grantedCompression(): Record<string, LinkCompression> {
    const { compression } = this.#options;
    if (compression === undefined) return {};
    return { [LINK_COMPRESSION]: compression.zstd === undefined ? 'off' : 'zstd' };
  }

  get #inHotStandby(): 'on' | 'off' {
    return this.#context.isInRecovery() ? 'on' : 'off';
  }

  async #answer(message: Message): Promise<SenderOutcome> {
    const { type, body } = message;
    if (type === FRONTEND.TERMINATE) return 'closed';
    if (type === FRONTEND.SYNC) {
      this.#skipsToSync = false;
      await this.#connection.send(encodeReadyForQuery());
      return 'ready';
    }
    if (this.#skipsToSync) return 'ready';
    // What is left of a copy that ended by an error is swallowed, as PostgreSQL does.
    if (LEFT_FROM_COPY.has(type) || type === FRONTEND.FLUSH) return 'ready';
    if (EXTENDED_QUERY.has(type)) {
      this.#skipsToSync = true;
      await this.#refuse(
        new WalcadeError(
          SQLSTATE.PROTOCOL_VIOLATION,
          'extended query protocol not supported in a replication connection',
        ),
      );
      return 'ready';
    }
    if (type === FRONTEND.FUNCTION_CALL) {
      await this.#refuse(
        new WalcadeError(
          SQLSTATE.PROTOCOL_VIOLATION,
          'fastpath function calls not supported in a replication connection',
        ),
      );
      await this.#connection.send(encodeReadyForQuery());
      return 'ready';
    }
    if (type !== FRONTEND.QUERY) {
      throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, `invalid frontend message type ${type}`);
    }
    return this.#execute(decodeQuery(body));
  }

  async #execute(text: string): Promise<SenderOutcome> {
    if (this.#context.settings().logReplicationCommands) {
      this.#log.log(`received replication command: ${text}`);
    }
    const running = new AbortController();
    const onClosed = (): void => running.abort(this.#connection.closed.reason);
    this.#connection.closed.addEventListener('abort', onClosed, { once: true });
    this.#running = running;
    try {
      const command = parseReplicationCommand(text, serverVersionNum(this.#context));
      return await this.#run(command, running.signal);
    } catch (error) {
      if (this.#connection.closed.aborted || endsSession(error)) throw error;
      this.#context.slots.dropTemporary(this.#downstream.pid);
      this.#log.log(asWalcadeError(error).message, `The command was: ${text}`);
      await this.#refuse(asWalcadeError(error));
      await this.#connection.send(encodeReadyForQuery());
      return 'ready';
    } finally {
      this.#running = undefined;
      this.#connection.closed.removeEventListener('abort', onClosed);
    }
  }

  async #run(command: ReplicationCommand, signal: AbortSignal): Promise<SenderOutcome> {
    const context = this.#context;
    switch (command.kind) {
      case 'identify-system':
        return this.#reply(identifySystem(context));
      case 'show':
        return this.#reply(show(context, command.name));
      case 'timeline-history':
        await this.#connection.send(describeTimelineHistory(context));
        return this.#reply(await timelineHistory(context, command.timeline));
      case 'create-replication-slot':
        return this.#reply(await createSlot(context, command, this.#downstream.pid));
      case 'read-replication-slot':
        return this.#reply(readSlot(context, command.name));
      case 'drop-replication-slot':
        await this.#dropSlot(command, signal);
        return this.#reply([encodeCommandComplete('DROP_REPLICATION_SLOT')]);
      case 'start-replication':
        return this.#startReplication(command);
      case 'base-backup':
        this.#downstream.state = 'backup';
        try {
          await this.#backups.backUp(command, signal);
        } finally {
          this.#downstream.state = 'startup';
        }
        return 'ready';
      case 'upload-manifest':
        await this.#backups.uploadManifest(signal);
        return 'ready';
      case 'alter-replication-slot':
        context.slots.get(command.name);
        throw notSupported('cannot use ALTER_REPLICATION_SLOT with a physical replication slot');
      case 'create-logical-slot':
      case 'start-logical-replication':
        throw notSupported('logical replication is not supported by a relay', {
          hint: 'Connect to a PostgreSQL server for logical replication.',
        });
      case 'sql':
        throw notSupported('cannot execute SQL commands in WAL sender for physical replication');
    }
  }

  async #startReplication(
    command: ReplicationCommand & { kind: 'start-replication' },
  ): Promise<SenderOutcome> {
    const outcome = await new WalSender({
      connection: this.#connection,
      downstream: this.#downstream,
      context: this.#context,
      isNode: this.#options.isNode,
      zstd: this.#options.compression?.zstd,
      stopping: this.#options.stopping,
      log: this.#log,
    }).run(command);
    if (outcome === 'ready') {
      await this.#connection.send([...this.#changedParameters(), encodeReadyForQuery()]);
    }
    return outcome;
  }

  async #dropSlot(
    { name, wait }: { name: string; wait: boolean },
    signal: AbortSignal,
  ): Promise<void> {
    const { slots } = this.#context;
    const { pid } = this.#downstream;
    if (wait) await slots.waitUntilFree(name, pid, signal);
    await slots.drop(name, pid);
  }

  async #reply(messages: Buffer[]): Promise<SenderOutcome> {
    await this.#connection.send([...messages, encodeReadyForQuery()]);
    return 'ready';
  }

  async #refuse(error: WalcadeError): Promise<void> {
    await this.#connection.send(encodeErrorResponse(error, 'ERROR'));
  }

  /** The session ends by `error`: told to the downstream if that makes sense, logged here once. */
  async #end(error: unknown): Promise<void> {
    const { message, detail, sqlstate } = asWalcadeError(error);
    if (error instanceof ReplicationTimeout) {
      this.#log.log(message);
      return this.#connection.close();
    }
    if (this.#connection.closed.aborted) {
      return this.#log.log(`connection lost: ${message}`, detail);
    }
    if (sqlstate === SQLSTATE.INTERNAL_ERROR) this.#log.error(error);
    else this.#log.log(message, detail);
    await this.#connection
      .send(encodeErrorResponse(asWalcadeError(error), 'FATAL'))
      .catch(() => {});
  }
}

const LEFT_FROM_COPY = new Set<number>([
  FRONTEND.COPY_DATA,
  FRONTEND.COPY_DONE,
  FRONTEND.COPY_FAIL,
]);

/** Errors that leave no session to go on with, though its connection stands. */
function endsSession(error: unknown): boolean {
  if (error instanceof ReplicationTimeout) return true;
  if (!(error instanceof WalcadeError)) return true;
  return (
    error.sqlstate === SQLSTATE.PROTOCOL_VIOLATION || error.sqlstate === SQLSTATE.ADMIN_SHUTDOWN
  );
}

function shutdown(): WalcadeError {
  return new WalcadeError(
    SQLSTATE.ADMIN_SHUTDOWN,
    'terminating connection due to administrator command',
  );
}

function notSupported(message: string, options: { hint?: string } = {}): WalcadeError {
  return new WalcadeError(SQLSTATE.FEATURE_NOT_SUPPORTED, message, options);
}
