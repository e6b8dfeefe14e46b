/**
 * Loops of nodes, seen by the identities of the nodes above an upstream: a node that received its
 * own WAL would wait for ever, and so would all the others of the loop.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

/**
 * Throws 55000 if the node `nodeId` is above itself when it follows the upstream at `address`.
 * `path` has the upstream's own identity, then those of the nodes above it; see readUpstreamPath().
 */
export function checkUpstreamPath(
  path: readonly string[],
  { nodeId, address }: { nodeId: string; address: string },
): void {
  const between = path.indexOf(nodeId);
  if (between < 0) return;
  const hint = 'Follow the primary, or a node that is not below this one.';
  if (between === 0) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      `upstream ${address} is this node itself`,
      { detail: 'There is nothing that it could receive from itself.', hint },
    );
  }
  const others = between === 2 ? 'one other node' : `${between - 1} other nodes`;
  const through = between === 1 ? '' : `It does so through ${others}. `;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `upstream ${address} receives its WAL from this node`,
    { detail: `${through}Following it would close a loop that no primary feeds.`, hint },
  );
}
