/**
 * This node's slot on its upstream: made by init, and again wherever the node comes to follow an
 * upstream that does not have it.
 */
import { SQLSTATE, asWalcadeError } from '../base/errors.ts';
import { type ReplicationClient, singleValue } from '../protocol/client.ts';
import { formatCreateSlot, formatReadSlot } from '../protocol/replication-command.ts';
import { type Lsn, parseLsn } from '../wal/lsn.ts';
import { showSetting } from './upstream-identity.ts';

/** The first server_version_num whose servers know READ_REPLICATION_SLOT. */
const READ_SLOT_SINCE = 150_000;

/** Makes a physical slot that reserves WAL at once. Throws 42710 if it is there. */
export async function createUpstreamSlot(client: ReplicationClient, slot: string): Promise<void> {
  const serverVersionNum = await readVersionNum(client);
  const options = { temporary: false, reserveWal: true, serverVersionNum };
  await client.query(formatCreateSlot(slot, options));
}

/** Whether there is a slot of this name, of either kind; undefined if the upstream cannot tell. */
export async function hasUpstreamSlot(
  client: ReplicationClient,
  slot: string,
): Promise<boolean | undefined> {
  if ((await readVersionNum(client)) < READ_SLOT_SINCE) return undefined;
  try {
    return singleValue(await client.query(formatReadSlot(slot)), 0) !== undefined;
  } catch (error) {
    // A logical slot cannot be read.
    if (asWalcadeError(error).sqlstate === SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE) return true;
    throw error;
  }
}

/** From where on the slot reserves WAL; undefined if the upstream cannot tell. */
export async function readUpstreamSlot(
  client: ReplicationClient,
  slot: string,
): Promise<Lsn | undefined> {
  if ((await readVersionNum(client)) < READ_SLOT_SINCE) return undefined;
  const restart = singleValue(await client.query(formatReadSlot(slot)), 1);
  return restart === undefined ? undefined : parseLsn(restart);
}

async function readVersionNum(client: ReplicationClient): Promise<number> {
  return Number((await showSetting(client, 'server_version_num')) ?? 0);
}
