/**
 * The node's slot on its attached server: it keeps the WAL that the node has not received yet of a
 * server that leads. On a standby nobody uses it, and it would keep WAL for ever: what a promotion
 * that was broken off, or a time as a primary, has left is dropped.
 */
import { WalcadeError, asWalcadeError } from '../base/errors.ts';
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

export async function dropAttachedSlot(client: ReplicationClient): Promise<void> {
  await client.query(formatDropSlot(ATTACHED_SLOT));
}
