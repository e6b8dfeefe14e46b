/**
 * BASE_BACKUP for a downstream, passed through from who has data pages: the attached server, or the
 * upstream.
 *
 * Messages are read, and written again as they were, each batch when the downstream has taken the
 * one before. UPLOAD_MANIFEST and the incremental backups after it share one upstream connection.
 * While a backup runs, WAL is kept here from its start. That is told downstream when its WAL can be
 * had here (backup-fit.ts).
 */
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { type Connection, ConnectionLost } from '../protocol/connection.ts';
import { type UpstreamError, errorFromResponse } from '../protocol/error-response.ts';
import { encodeQuery } from '../protocol/frontend-messages.ts';
import type { Message } from '../protocol/message-reader.ts';
import { BACKEND, FRONTEND } from '../protocol/message-type.ts';
import { type BaseBackup, backupTarget } from '../protocol/replication-command.ts';
import type { Lsn } from '../wal/lsn.ts';
import { BackupPositions, checkBackupFits, untilBackupFits } from './backup-fit.ts';
import type { SenderContext } from './sender-context.ts';

export class BackupRelay {
  readonly #context: SenderContext;
  readonly #downstream: Connection;
  #upstream: ReplicationClient | undefined;
  #held: { start: Lsn } | undefined;

  constructor(context: SenderContext, downstream: Connection) {
    this.#context = context;
    this.#downstream = downstream;
  }

  /** Passes a backup through, its errors and ReadyForQuery included. */
  async backUp(command: BaseBackup, signal: AbortSignal): Promise<void> {
    const target = backupTarget(command);
    if (target !== 'client') {
      throw new WalcadeError(
        SQLSTATE.FEATURE_NOT_SUPPORTED,
        `backup target "${target}" is not supported by a relay`,
        { hint: 'Use target "client", or connect to a PostgreSQL server.' },
      );
    }
    // What is left of an earlier command may be lost by now: only a manifest is of use.
    if (!command.options.some(({ name }) => name === 'incremental')) await this.close();
    try {
      await this.#withUpstream(signal, async (upstream) => {
        await upstream.connection.send(encodeQuery(command.text));
        const positions = new BackupPositions();
        await this.#passUntil(upstream, [BACKEND.READY_FOR_QUERY], (message) =>
          this.#look(positions, message, signal),
        );
      });
    } finally {
      if (this.#held !== undefined) this.#context.backupStarts.delete(this.#held);
      this.#held = undefined;
    }
  }

  /** Passes a manifest up, for the incremental backup that follows. */
  async uploadManifest(signal: AbortSignal): Promise<void> {
    await this.close();
    await this.#withUpstream(signal, async (upstream) => {
      await upstream.connection.send(encodeQuery('UPLOAD_MANIFEST'));
      const ends = [BACKEND.COPY_IN_RESPONSE, BACKEND.READY_FOR_QUERY];
      const last = await this.#passUntil(upstream, ends);
      if (last === BACKEND.READY_FOR_QUERY) return;
      await this.#passManifest(upstream);
      await this.#passUntil(upstream, [BACKEND.READY_FOR_QUERY]);
    });
  }

  /**
   * Passes the manifest's CopyData up, to its end. Nothing else gets through: what a downstream
   * says here runs on the upstream with this node's rights.
   */
  async #passManifest(upstream: ReplicationClient): Promise<void> {
    for (;;) {
      const message = await this.#downstream.next();
      if (message.type === FRONTEND.FLUSH || message.type === FRONTEND.SYNC) continue;
      if (!COPY_MESSAGES.has(message.type)) {
        throw new WalcadeError(
          SQLSTATE.PROTOCOL_VIOLATION,
          `unexpected message type 0x${message.type.toString(16)} during COPY from stdin`,
        );
      }
      await upstream.connection.send(encodeAgain(message));
      if (message.type !== FRONTEND.COPY_DATA) return;
    }
  }

  async close(): Promise<void> {
    const upstream = this.#upstream;
    this.#upstream = undefined;
    await upstream?.close();
  }

  async #withUpstream(
    signal: AbortSignal,
    action: (upstream: ReplicationClient) => Promise<void>,
  ): Promise<void> {
    this.#upstream ??= await this.#connect(signal);
    const upstream = this.#upstream;
    const abandon = (): void => upstream.connection.close();
    if (signal.aborted) abandon();
    signal.addEventListener('abort', abandon, { once: true });
    try {
      await action(upstream);
    } catch (error) {
      await this.close();
      signal.throwIfAborted();
      if (this.#downstream.closed.aborted || !(error instanceof ConnectionLost)) throw error;
      throw upstreamLost(error);
    } finally {
      signal.removeEventListener('abort', abandon);
    }
  }

  async #connect(signal: AbortSignal): Promise<ReplicationClient> {
    try {
      return await this.#context.connectForBackup(signal);
    } catch (error) {
      signal.throwIfAborted();
      const { sqlstate, message, detail, hint } = asWalcadeError(error);
      throw new WalcadeError(sqlstate, message, {
        detail,
        hint: hint ?? 'Take the backup again when that server can be reached.',
        cause: error,
      });
    }
  }

  /**
   * Passes messages down until one of type `ends` has passed; returns its type. What `look` throws
   * is told instead of the message that it was shown. A message that has not come in whole is held
   * back, so that an error can follow whatever was passed.
   */
  async #passUntil(
    upstream: ReplicationClient,
    ends: readonly number[],
    look: (message: Message) => Promise<void> | undefined = () => undefined,
  ): Promise<number> {
    let incomplete: Uint8Array[] = [];
    for (;;) {
      const messages = await upstream.connection.read();
      const passed: Uint8Array[] = [];
      for (const [index, message] of messages.entries()) {
        await look(message);
        if (message.type === BACKEND.PARAMETER_STATUS) continue;
        if (message.type === BACKEND.ERROR_RESPONSE) checkGoesOn(errorFromResponse(message.body));
        incomplete.push(...encodeAgain(message));
        if (message.offset + message.body.length < message.bodyBytes) continue;
        passed.push(...incomplete);
        incomplete = [];
        if (!ends.includes(message.type)) continue;
        upstream.connection.unread(messages.slice(index + 1));
        await this.#downstream.send(passed);
        return message.type;
      }
      if (passed.length > 0) await this.#downstream.send(passed);
      // What is held back outlives the buffer it was read into.
      incomplete = incomplete.map((part) => Buffer.from(part));
    }
  }

  /** Where a backup begins or ends is told when it fits: from the beginning on WAL is kept here. */
  #look(
    positions: BackupPositions,
    message: Message,
    signal: AbortSignal,
  ): Promise<void> | undefined {
    const position = positions.take(message);
    if (position?.which === 'begins') {
      this.#held = { start: position.lsn };
      this.#context.backupStarts.add(this.#held);
      return untilBackupFits(this.#context, position, signal);
    }
    if (position !== undefined) checkBackupFits(this.#context.store, position);
    return undefined;
  }
}

/** A fatal error ends the upstream's session, and not the downstream's. */
function checkGoesOn(error: UpstreamError): void {
  if (error.severity !== 'ERROR') throw upstreamLost(error);
}

function upstreamLost({ message }: WalcadeError): WalcadeError {
  return new WalcadeError(
    SQLSTATE.CONNECTION_FAILURE,
    'connection to upstream was lost during a base backup',
    { detail: `${message}.`, hint: 'Take the backup again.' },
  );
}

const COPY_MESSAGES = new Set<number>([FRONTEND.COPY_DATA, FRONTEND.COPY_DONE, FRONTEND.COPY_FAIL]);

/** A message, or a fragment of one, as it was on the wire. */
function encodeAgain({ type, body, offset, bodyBytes }: Message): Uint8Array[] {
  if (offset > 0) return [body];
  const header = Buffer.allocUnsafe(5);
  header[0] = type;
  header.writeUInt32BE(bodyBytes + 4, 1);
  return [header, body];
}
