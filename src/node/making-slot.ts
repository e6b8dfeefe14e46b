/**
 * The slot on the upstream that is made with a node, and taken back if the node is not made. A slot
 * that nobody uses keeps WAL for ever: if it is left, or may be, somebody must know.
 *
 * A slot is dropped only if it is ours: not one that was there before, whatever is lost on the way.
 */
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { UpstreamError } from '../protocol/error-response.ts';
import { formatDropSlot } from '../protocol/replication-command.ts';
import { createUpstreamSlot, hasUpstreamSlot } from '../receiver/upstream-slot.ts';

export interface MakingSlotOptions {
  /** The connection on which the slot is made. */
  client: ReplicationClient;
  /** A new connection, for when that one cannot be used any more. */
  reconnect: (signal: AbortSignal) => Promise<ReplicationClient>;
  clock: Clock;
  log: Log;
  onFailure: (undo: () => Promise<void>) => void;
}

/** Long enough for an upstream that answers, short enough for who waits after Ctrl-C. */
const DROP_TIMEOUT_MS = 5000;

/** What a server says instead of making a slot, before it has begun to. */
const NOTHING_MADE: ReadonlySet<string> = new Set([
  SQLSTATE.DUPLICATE_OBJECT,
  SQLSTATE.INSUFFICIENT_PRIVILEGE,
  SQLSTATE.CONFIGURATION_LIMIT_EXCEEDED,
  SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
  SQLSTATE.FEATURE_NOT_SUPPORTED,
  SQLSTATE.SYNTAX_ERROR,
  SQLSTATE.INVALID_NAME,
]);

const MADE = 'Drop it on the upstream, since it holds WAL there.';
const PERHAPS_MADE = 'Drop it on the upstream if it is there, since it holds WAL then.';

/** Makes the slot; throws what the upstream answers, of 42710 with what to do about it. */
export async function makeSlot(slot: string, options: MakingSlotOptions): Promise<void> {
  const { client, onFailure } = options;
  const wasThere = await hasUpstreamSlot(client, slot);
  try {
    await createUpstreamSlot(client, slot);
  } catch (error) {
    if (!(error instanceof UpstreamError) || !NOTHING_MADE.has(error.sqlstate)) {
      if (wasThere === false) onFailure(() => dropSlot(slot, PERHAPS_MADE, options));
      if (wasThere === undefined) onFailure(async () => warnOfSlot(slot, options.log));
    }
    throw describeRefusal(error);
  }
  onFailure(() => dropSlot(slot, MADE, options));
}

function describeRefusal(error: unknown): unknown {
  if (!(error instanceof UpstreamError) || error.sqlstate !== SQLSTATE.DUPLICATE_OBJECT) {
    return error;
  }
  return new WalcadeError(error.sqlstate, `${error.message} on the upstream`, {
    hint: 'Choose another name with --slot, or drop that slot if nobody needs it.',
    cause: error,
  });
}

/** It may be another node's as well: the upstream could not tell whether it was there before. */
function warnOfSlot(slot: string, log: Log): void {
  log.warning(
    new WalcadeError(
      SQLSTATE.CONNECTION_FAILURE,
      `replication slot "${slot}" may have been made on the upstream`,
      { hint: 'Drop it there if nobody else has made it, since it holds WAL then.' },
    ),
  );
}

async function dropSlot(
  slot: string,
  hint: string,
  { client, reconnect, clock, log }: MakingSlotOptions,
): Promise<void> {
  const drop = async (over: ReplicationClient, signal: AbortSignal): Promise<void> => {
    signal.addEventListener('abort', () => over.connection.close(), { once: true });
    try {
      await over.query(formatDropSlot(slot));
    } catch (error) {
      if (!(error instanceof UpstreamError) || error.sqlstate !== SQLSTATE.UNDEFINED_OBJECT) {
        throw error;
      }
    } finally {
      await over.close();
    }
  };
  try {
    await inTime(clock, (signal) => drop(client, signal)).catch(() =>
      inTime(clock, async (signal) => drop(await reconnect(signal), signal)),
    );
  } catch (error) {
    const { sqlstate, message } = asWalcadeError(error);
    const text = `could not drop replication slot "${slot}": ${message}`;
    log.warning(new WalcadeError(sqlstate, text, { hint, cause: error }));
  }
}

/** Does `action`, whose signal aborts when it takes too long: it says why then. */
async function inTime<T>(clock: Clock, action: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const late = new AbortController();
  const timer = clock.setTimer(DROP_TIMEOUT_MS, () => {
    const seconds = DROP_TIMEOUT_MS / 1000;
    const message = `no answer from the upstream within ${seconds} s`;
    late.abort(new WalcadeError(SQLSTATE.CONNECTION_FAILURE, message));
  });
  try {
    return await action(late.signal);
  } catch (error) {
    late.signal.throwIfAborted();
    throw error;
  } finally {
    timer.cancel();
  }
}
