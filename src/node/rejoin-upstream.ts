/** A server that a node did not receive WAL from before, and whether it can be followed. */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { readUpstreamPath } from '../receiver/upstream-identity.ts';
import type { TimelineHistory } from '../wal/history.ts';
import { formatSegmentBytes } from '../wal/segment.ts';
import { checkSameMajor } from './stopped-data.ts';
import type { StoppedNode } from './stopped-node.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

/** The server that is to be followed. */
export interface NewUpstream {
  readonly facts: UpstreamFacts;
  readonly history: TimelineHistory;
  readonly client: ReplicationClient;
  /** A further connection to it. */
  readonly connect: () => Promise<ReplicationClient>;
}

/**
 * Throws 55000 unless the upstream is a server of the node's cluster and major version that does
 * not receive its WAL from this node.
 */
export async function checkNewUpstream(
  { control, major }: StoppedNode,
  { identity, segmentBytes, ...facts }: UpstreamFacts,
  client: ReplicationClient,
): Promise<void> {
  if (identity.systemIdentifier !== control.systemIdentifier) {
    throw refusal('database system identifier differs between the upstream and this node', {
      detail:
        `The upstream's identifier is ${identity.systemIdentifier}, ` +
        `this node's identifier is ${control.systemIdentifier}.`,
      hint: 'Name a server of the same cluster.',
    });
  }
  checkSameMajor(major, facts);
  if (segmentBytes !== control.segmentBytes) {
    throw refusal('WAL segment size differs between the upstream and this node', {
      detail:
        `The upstream's segments are of ${formatSegmentBytes(segmentBytes)}, ` +
        `this node's of ${formatSegmentBytes(control.segmentBytes)}.`,
      hint: 'Make the node anew with "walcade init --with-postgres".',
    });
  }
  if ((await readUpstreamPath(client)).includes(control.nodeId)) {
    throw refusal('upstream receives its WAL from this node', {
      detail: 'Following it would close a loop that no primary feeds.',
      hint: 'Name the server that was promoted, or one below it.',
    });
  }
}

function refusal(message: string, { detail, hint }: { detail: string; hint: string }) {
  return new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, message, { detail, hint });
}
