/** Whether an upstream still has WAL that is needed: found out before anything depends on it. */
import { BACKEND } from '../protocol/message-type.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import { formatStartReplication } from '../protocol/replication-command.ts';
import type { Lsn, TimelineId } from '../wal/lsn.ts';

/** Throws what the upstream answers, on a connection of its own, when it is asked for WAL there. */
export async function askForWal(
  connect: () => Promise<ReplicationClient>,
  position: { start: Lsn; timeline: TimelineId },
): Promise<void> {
  const client = await connect();
  try {
    // PostgreSQL 13 starts no stream before it was asked to identify itself.
    await client.query('IDENTIFY_SYSTEM');
    await client.startCopyBoth(formatStartReplication(position));
    // What is missing is told after CopyBoth, what is there begins to come.
    const { type, body } = await client.next();
    if (type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(body);
  } finally {
    client.connection.close();
  }
}
