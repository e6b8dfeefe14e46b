/**
 * The client side of a replication connection: connect, start up, authenticate, send commands.
 *
 * It lives until `close` or until the server ends it. One command at a time; after CopyBoth the
 * caller reads and writes messages itself through `connection`, and comes back with `results`.
 */
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import {
  type AuthenticationRequest,
  BACKEND,
  decodeAuthentication,
  decodeBackendKeyData,
  decodeCommandComplete,
  decodeDataRow,
  decodeNegotiateProtocolVersion,
  decodeParameterStatus,
  decodeRowDescription,
} from './backend-messages.ts';
import { Connection } from './connection.ts';
import { errorFromResponse } from './error-response.ts';
import { encodeQuery, encodeTerminate } from './frontend-messages.ts';
import type { Message, MessageLimits } from './message-reader.ts';
import { connectionHint } from './connection-hints.ts';
import { type Network, type ServerAddress, describeServer } from './network.ts';
import { WAL_DATA_HEADER_BYTES } from './replication-messages.ts';
import { type SessionAttributes, checkSessionAttributes } from './session-attributes.ts';
import { PROTOCOL_VERSION, encodeStartup } from './startup.ts';
import { createAuthenticator } from './upstream-authentication.ts';

export interface ClientOptions {
  network: Network;
  clock: Clock;
  /** Tried in order until one accepts the connection. */
  addresses: readonly ServerAddress[];
  user: string;
  /** The password for an address, if there is one. */
  password: (address: ServerAddress) => string | undefined;
  /** Whether the server may authenticate us so (`none` if it asks for nothing): require_auth. */
  allowsAuthentication: (method: string) => boolean;
  /** target_session_attrs. */
  sessionAttributes: SessionAttributes;
  /** Further parameters of the startup packet: replication, application_name, … */
  parameters: Record<string, string>;
  /** How long one address may take to accept and authenticate; 0 waits for ever. */
  connectTimeoutMs: number;
  signal: AbortSignal;
  /** Called with each NoticeResponse. */
  onNotice?: (notice: WalcadeError) => void;
}

/** The outcome of one statement: a result set, or only a command tag. */
export interface CommandResult {
  columns: string[];
  rows: (Buffer | null)[][];
  tag: string;
}

/** How a START_REPLICATION was answered. */
export type StreamStart = { kind: 'streaming' } | { kind: 'results'; results: CommandResult[] };

const SHORT_BODY_BYTES_MAX = 64 * 1024;
const LONG_BODY_BYTES_MAX = 64 * 1024 * 1024;
const COPY_DATA_BYTES_MAX = 0x3fff_ffff;

const TYPES = new Set<number>(Object.values(BACKEND));

const limits: MessageLimits = {
  copyDataHeadBytes: WAL_DATA_HEADER_BYTES,
  bodyBytesMax: (type) => {
    if (type === BACKEND.COPY_DATA) return COPY_DATA_BYTES_MAX;
    if (type === BACKEND.DATA_ROW) return LONG_BODY_BYTES_MAX;
    // What a server never sends is refused by its first byte, not waited for.
    return TYPES.has(type) ? SHORT_BODY_BYTES_MAX : 0;
  },
};

export class ReplicationClient {
  readonly connection: Connection;
  readonly address: ServerAddress;
  /** What the server said of itself: server_version, in_hot_standby, … */
  readonly parameters = new Map<string, string>();
  /** The server's process ID for this session, and the key to cancel its command with. */
  key: { processId: number; key: Uint8Array } | undefined;
  readonly #onNotice: (notice: WalcadeError) => void;

  private constructor(connection: Connection, address: ServerAddress, options: ClientOptions) {
    this.connection = connection;
    this.address = address;
    this.#onNotice = options.onNotice ?? (() => {});
  }

  /** Connects to the first address that accepts; throws what the last one said. */
  static async connect(options: ClientOptions): Promise<ReplicationClient> {
    let refusal: unknown = new WalcadeError(SQLSTATE.UNABLE_TO_CONNECT, 'no address to connect to');
    const refusals: string[] = [];
    const { addresses, sessionAttributes } = options;
    const passes: SessionAttributes[] =
      sessionAttributes === 'prefer-standby' ? ['standby', 'any'] : [sessionAttributes];
    for (const { address, wanted } of passes.flatMap((pass) =>
      addresses.map((each) => ({ address: each, wanted: pass })),
    )) {
      try {
        return await connectTo(
          address,
          { ...options, sessionAttributes: wanted },
          (c) => new ReplicationClient(c, address, options),
        );
      } catch (error) {
        options.signal.throwIfAborted();
        refusal = error;
        refusals.push(asWalcadeError(error).message);
      }
    }
    if (refusals.length < 2) throw refusal;
    const { sqlstate, message, hint, detail } = asWalcadeError(refusal);
    const others = refusals.slice(0, -1).map((text) => `${text}.`);
    throw new WalcadeError(sqlstate, message, {
      detail: [...(detail === undefined ? [] : [detail]), ...others].join('\n'),
      hint,
      cause: refusal,
    });
  }

  /** Sends one command and returns what it answers. Throws the server's error, as UpstreamError. */
  async query(command: string): Promise<CommandResult[]> {
    await this.connection.send(encodeQuery(command));
    return this.results();
  }

  /** The next message; asynchronous ones (notices, parameter changes) are dealt with on the way. */
  async next(): Promise<Message> {
    for (;;) {
      const message = await this.connection.next();
      if (!this.#handleAsynchronous(message)) return message;
    }
  }

  /** Reads results up to ReadyForQuery. */
  async results(): Promise<CommandResult[]> {
    const results: CommandResult[] = [];
    let open: CommandResult = { columns: [], rows: [], tag: '' };
    let error: WalcadeError | undefined;
    for (;;) {
      const { type, body } = await this.next();
      if (type === BACKEND.ROW_DESCRIPTION) {
        open = { columns: decodeRowDescription(body).map(({ name }) => name), rows: [], tag: '' };
      } else if (type === BACKEND.DATA_ROW) {
        // The row outlives the buffer it was read into.
        open.rows.push(decodeDataRow(Buffer.from(body)));
      } else if (type === BACKEND.COMMAND_COMPLETE) {
        results.push({ ...open, tag: decodeCommandComplete(body) });
        open = { columns: [], rows: [], tag: '' };
      } else if (type === BACKEND.ERROR_RESPONSE) {
        const refusal = errorFromResponse(body);
        if (refusal.severity !== 'ERROR') throw refusal;
        error ??= refusal;
      } else if (type === BACKEND.READY_FOR_QUERY) {
        if (error !== undefined) throw error;
        return results;
      } else {
        throw unexpectedMessage(type);
      }
    }
  }

  /** Sends a command that may begin CopyBoth. */
  async startCopyBoth(command: string): Promise<StreamStart> {
    await this.connection.send(encodeQuery(command));
    const first = await this.next();
    if (first.type === BACKEND.COPY_BOTH_RESPONSE) return { kind: 'streaming' };
    this.connection.unread([first]);
    return { kind: 'results', results: await this.results() };
  }

  /** Takes leave and closes. */
  async close(): Promise<void> {
    if (!this.connection.closed.aborted) {
      await this.connection.send(encodeTerminate()).catch(() => {});
    }
    this.connection.close();
  }

  /** Deals with messages that may come at any time; true if `message` was one. */
  #handleAsynchronous({ type, body }: Message): boolean {
    if (type === BACKEND.PARAMETER_STATUS) {
      const { name, value } = decodeParameterStatus(body);
      this.parameters.set(name, value);
      return true;
    }
    if (type === BACKEND.NOTICE_RESPONSE) {
      this.#onNotice(errorFromResponse(body));
      return true;
    }
    return type === BACKEND.NOTIFICATION_RESPONSE;
  }

  /** Startup and authentication, up to the first ReadyForQuery. */
  async startUp(options: ClientOptions): Promise<void> {
    const { user, password, parameters, allowsAuthentication } = options;
    let hasChosen = false;
    await this.connection.send(encodeStartup({ user, ...parameters }));
    const authenticator = createAuthenticator({ user, password: password(this.address) });
    for (;;) {
      const { type, body } = await this.next();
      if (type === BACKEND.AUTHENTICATION) {
        const request = decodeAuthentication(body);
        if (!hasChosen) this.#checkMethod(request, allowsAuthentication);
        hasChosen = true;
        const answer = authenticator.answer(request);
        if (answer !== 'done') await this.connection.send(answer);
      } else if (type === BACKEND.ERROR_RESPONSE) {
        throw errorFromResponse(body);
      } else if (type === BACKEND.BACKEND_KEY_DATA) {
        this.key = decodeBackendKeyData(Buffer.from(body));
      } else if (type === BACKEND.NEGOTIATE_PROTOCOL_VERSION) {
        refuseOlderProtocol(decodeNegotiateProtocolVersion(body).version);
      } else if (type === BACKEND.READY_FOR_QUERY) {
        if (!authenticator.accepted) throw unexpectedMessage(type);
        return checkSessionAttributes(options.sessionAttributes, {
          parameters: this.parameters,
          show: async (name) => singleValue(await this.query(`SHOW ${name}`), 0),
        });
      } else {
        throw unexpectedMessage(type);
      }
    }
  }

  #checkMethod({ kind }: AuthenticationRequest, allows: (method: string) => boolean): void {
    const method = METHOD_NAMES[kind];
    if (method === undefined || allows(method)) return;
    throw new WalcadeError(
      SQLSTATE.INVALID_AUTHORIZATION,
      `authentication method "${method}" is excluded by require_auth`,
      { detail: 'The server has asked for it; "none" is asking for nothing.' },
    );
  }
}

/** Authentication requests by their names in require_auth. */
const METHOD_NAMES: Partial<Record<AuthenticationRequest['kind'], string>> = {
  ok: 'none',
  'cleartext-password': 'password',
  'md5-password': 'md5',
  sasl: 'scram-sha-256',
};

async function connectTo(
  address: ServerAddress,
  options: ClientOptions,
  create: (connection: Connection) => ReplicationClient,
): Promise<ReplicationClient> {
  const { network, clock, connectTimeoutMs, signal } = options;
  signal.throwIfAborted();
  const attempt = new AbortController();
  let connection: Connection | undefined;
  const abandon = (): void => {
    attempt.abort(signal.reason);
    connection?.close();
  };
  signal.addEventListener('abort', abandon, { once: true });
  const timer = connectTimeoutMs > 0 ? clock.setTimer(connectTimeoutMs, abandon) : undefined;
  try {
    const socket = await network.connect(address, attempt.signal);
    const lostMessage = 'server closed the connection unexpectedly';
    connection = new Connection(socket, { limits, lostMessage, inPlace: true });
    const client = create(connection);
    await client.startUp(options);
    return client;
  } catch (error) {
    connection?.close();
    signal.throwIfAborted();
    if (!attempt.signal.aborted) throw describeFailure(error, address, options.user);
    const seconds = connectTimeoutMs / 1000;
    throw new WalcadeError(
      SQLSTATE.UNABLE_TO_CONNECT,
      `connection to ${describeServer(address)} failed: timeout expired`,
      {
        detail:
          connection === undefined
            ? `It did not accept the connection within ${seconds} s.`
            : `It accepted the connection and did not let us in within ${seconds} s.`,
        hint: 'Check host and port, or raise connect_timeout if the server is slow to answer.',
      },
    );
  } finally {
    timer?.cancel();
    signal.removeEventListener('abort', abandon);
  }
}

/** A server's refusal names the address it came from, as libpq's does. */
function describeFailure(error: unknown, address: ServerAddress, user: string): unknown {
  if (!(error instanceof WalcadeError)) return error;
  const { sqlstate, message, detail } = error;
  if (message.startsWith('connection to server')) return error;
  const about = `connection to ${describeServer(address)} failed: `;
  const hint = connectionHint(error, user);
  return new WalcadeError(sqlstate, about + message, { detail, hint, cause: error });
}

function refuseOlderProtocol(version: number): void {
  if (version === PROTOCOL_VERSION) return;
  throw new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    `server offers protocol version ${version >>> 16}.${version & 0xffff}, asked for was 3.0`,
  );
}

function unexpectedMessage(type: number): WalcadeError {
  return new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    `unexpected message type 0x${type.toString(16).padStart(2, '0')} from server`,
    { hint: 'Is that server PostgreSQL, or a walcade node?' },
  );
}

/** A column of a result's only row, as text; undefined for NULL. Throws 08P01 if there is none. */
export function singleValue(results: readonly CommandResult[], column: number): string | undefined {
  const value = results[0]?.rows[0]?.[column];
  if (value === undefined || results[0]?.rows.length !== 1) {
    throw new WalcadeError(
      SQLSTATE.PROTOCOL_VIOLATION,
      'invalid response from server: expected one row',
      { detail: `Got ${results[0]?.rows.length ?? 0} rows, looked for column ${column + 1}.` },
    );
  }
  return value?.toString();
}
