/**
 * The node's slot on its attached server: it keeps the WAL that the node has not received yet of a
 * server that leads. On a standby nobody uses it, and it would keep WAL for ever: what a promotion
 * that was broken off, or a time as a primary, has left is dropped.
 */
import { WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { formatDropSlot } from '../protocol/replication-command.ts';
import { hasServerSlot } from '../postgres/server-slots.ts';
import { createUpstreamSlot } from '../receiver/upstream-slot.ts';

export const ATTACHED_SLOT = 'walcade_node';

/** Whether it is there, as the server's files have it: the server logs who asks for what is not. */
export function hasAttachedSlot(dataDirectory: string): Promise<boolean> {
  return hasServerSlot(dataDirectory, ATTACHED_SLOT);
}

/** Makes it unless it is there; WAL is kept from the server's last checkpoint on. */
export async function makeAttachedSlot(
  client: ReplicationClient,
  dataDirectory: string,
): Promise<void> {
  if (await hasAttachedSlot(dataDirectory)) return;
  try {
    await createUpstreamSlot(client, ATTACHED_SLOT);
  } catch (error) {
    const { sqlstate, message, hint } = asWalcadeError(error);
    throw new WalcadeError(
      sqlstate,
      `could not make replication slot "${ATTACHED_SLOT}" on the attached PostgreSQL server`,
      { detail: `The server said: ${message}.`, hint, cause: error },
    );
  }
}

export interface LeftSlotOptions {
  dataDirectory: string;
  /** Asks the server over a connection of its own. */
  ask: (
    question: (client: ReplicationClient) => Promise<void>,
    signal: AbortSignal,
  ) => Promise<void>;
  log: Log;
}

/** The slot on a standby, for as long as the node runs: dropped whenever it is found. */
export class LeftSlot {
  readonly #options: LeftSlotOptions;
  /** Why it could not be dropped, as it was told last. */
  #told: string | undefined;

  constructor(options: LeftSlotOptions) {
    this.#options = options;
  }

  /**
   * Drops it if it is there; false if it is there still, which is told once for each reason.
   * Rejects with the signal's reason.
   */
  async drop(signal: AbortSignal): Promise<boolean> {
    const { dataDirectory, ask, log } = this.#options;
    try {
      if (await hasAttachedSlot(dataDirectory)) {
        const drop = formatDropSlot(ATTACHED_SLOT);
        await ask(async (client) => void (await client.query(drop)), signal);
      }
      this.#told = undefined;
      return true;
    } catch (error) {
      signal.throwIfAborted();
      const failure = asWalcadeError(error);
      if (failure.message !== this.#told) log.warning(slotIsLeft(failure));
      this.#told = failure.message;
      return false;
    }
  }
}

/** It holds WAL that nobody receives by it. */
function slotIsLeft(cause: WalcadeError): WalcadeError {
  return new WalcadeError(
    cause.sqlstate,
    `could not drop replication slot "${ATTACHED_SLOT}" on the attached PostgreSQL server`,
    {
      detail: `The server said: ${cause.message}.`,
      hint: 'It is tried again. Until then the slot holds WAL in the data directory.',
      cause,
    },
  );
}
