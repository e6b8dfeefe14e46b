/**
 * The WAL sender sessions of a node: who may open one, and the process id and cancel key that each
 * is known by. It lives as long as the front door, a session as long as its connection.
 *
 * No operating system gives a process the ids that are used here, so they are never those of the
 * attached server's sessions.
 */
import { randomBytes } from 'node:crypto';
import { setMaxListeners } from 'node:events';
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { encodeNegotiateProtocolVersion } from '../protocol/backend-messages.ts';
import { Connection } from '../protocol/connection.ts';
import type { MessageLimits } from '../protocol/message-reader.ts';
import { FRONTEND } from '../protocol/message-type.ts';
import {
  COMPRESSION_OPTION,
  UPSTREAM_PATH,
  wantedCompression,
} from '../protocol/node-parameters.ts';
import { type SessionStartup, negotiation } from '../protocol/startup.ts';
import { type Zstd, loadZstd } from '../protocol/zstd.ts';
import type { Downstream } from '../sender/downstreams.ts';
import type { SenderContext } from '../sender/sender-context.ts';
import { SenderSession } from '../sender/session.ts';
import type { CancelKeys } from './cancel-keys.ts';

export interface SenderSessionsOptions {
  context: SenderContext;
  maxWalSenders: () => number;
  keys: CancelKeys;
}

export interface SenderClient {
  socket: Duplex;
  /** What the client has sent after its startup packet. */
  readAhead: Buffer;
  startup: SessionStartup;
  downstream: Pick<Downstream, 'user' | 'applicationName' | 'peer' | 'isAttached'>;
  log: Log;
}

const COPY_DATA_BYTES_MAX = 1024 * 1024;
const QUERY_BYTES_MAX = 1024 * 1024;
const OTHER_BYTES_MAX = 10_000;

const limits: MessageLimits = {
  bodyBytesMax: (type) => {
    if (type === FRONTEND.COPY_DATA) return COPY_DATA_BYTES_MAX;
    return type === FRONTEND.QUERY ? QUERY_BYTES_MAX : OTHER_BYTES_MAX;
  },
};

/** Above 2^22, the most that a Linux kernel counts to (PID_MAX_LIMIT). */
const FIRST_PID = 5_000_000;

export class SenderSessions {
  readonly #options: SenderSessionsOptions;
  readonly #stopping = new AbortController();
  readonly #open = new Set<Promise<void>>();
  #nextPid = FIRST_PID;

  constructor(options: SenderSessionsOptions) {
    // Every session listens to it, and there may be max_wal_senders of them.
    setMaxListeners(0, this.#stopping.signal);
    this.#options = options;
  }

  /** Throws 53300 when max_wal_senders others are here, the attached server not among them. */
  checkFree(): void {
    const maxWalSenders = this.#options.maxWalSenders();
    const others = this.#options.context.downstreams.all().filter(({ isAttached }) => !isAttached);
    if (others.length < maxWalSenders) return;
    throw new WalcadeError(
      SQLSTATE.TOO_MANY_CONNECTIONS,
      'number of requested standby connections exceeds "max_wal_senders" ' +
        `(currently ${maxWalSenders})`,
    );
  }

  /** Serves a client that has been let in; resolves when its session has ended. */
  async serve({ socket, readAhead, startup, downstream, log }: SenderClient): Promise<void> {
    const { context, keys } = this.#options;
    const negotiated = negotiation(startup, [COMPRESSION_OPTION]);
    if (negotiated !== undefined) {
      socket.write(encodeNegotiateProtocolVersion(negotiated.version, negotiated.unrecognized));
    }
    const pid = this.#nextPid++;
    const key = randomBytes(4);
    const lostMessage = 'unexpected EOF on standby connection';
    const connection = new Connection(socket, { limits, lostMessage, readAhead });
    const entry = context.downstreams.add({
      ...downstream,
      pid,
      startedMs: context.clock.nowMs(),
      wireBytes: () => connection.traffic.writtenBytes,
    });
    const compression = await grantCompression(startup, log);
    if (compression?.zstd !== undefined) entry.compression = 'zstd';
    const session = new SenderSession({
      connection,
      downstream: entry,
      context,
      cancelKey: key,
      clientEncoding: startup.parameters.get('client_encoding'),
      isNode: startup.parameters.has(UPSTREAM_PATH),
      compression,
      stopping: this.#stopping.signal,
      log,
    });
    const target = { processId: pid, key, cancel: async () => session.cancel() };
    keys.add(target);
    const ended = session.run().finally(() => {
      context.downstreams.remove(entry);
      keys.remove(target);
      this.#open.delete(ended);
    });
    this.#open.add(ended);
    await ended;
  }

  /** Lets sessions that stream send what is left, ends all others; resolves when all have ended. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#open);
  }
}

/** What is granted to who asks for compression; without a library it is sent WAL as it is. */
async function grantCompression(
  startup: SessionStartup,
  log: Log,
): Promise<{ zstd: Zstd | undefined } | undefined> {
  const wanted = wantedCompression(startup);
  if (wanted !== 'zstd') return wanted && { zstd: undefined };
  try {
    return { zstd: await loadZstd() };
  } catch (error) {
    log.warning(asWalcadeError(error));
    return { zstd: undefined };
  }
}
