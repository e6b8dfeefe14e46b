/**
 * Tells a downstream that is a node which nodes are above this one, when its stream begins and
 * whenever that changes: so a loop is seen that was closed far above. It lives as long as the copy.
 */
import { encodeParameterStatus } from '../protocol/backend-messages.ts';
import type { Connection } from '../protocol/connection.ts';
import { UPSTREAM_PATH, formatUpstreamPath } from '../protocol/node-parameters.ts';
import type { SenderContext } from './sender-context.ts';

/** Tells until the function that it gives is called. */
export function tellUpstreamPath(
  connection: Connection,
  { upstreamPath }: Pick<SenderContext, 'upstreamPath'>,
): () => void {
  let told: string | undefined;
  const tell = (): void => {
    const path = formatUpstreamPath(upstreamPath.current());
    if (path === told) return;
    told = path;
    // A connection that breaks is noticed by who reads from it.
    connection.send(encodeParameterStatus(UPSTREAM_PATH, path)).catch(() => {});
  };
  tell();
  return upstreamPath.changed.listen(tell);
}
