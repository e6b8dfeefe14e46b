/**
 * What nodes tell each other beyond PostgreSQL's protocol, by means of it: two settings that SHOW
 * answers. A downstream that is a node says so by setting the second one at connection start; while
 * it streams it is told of changes by ParameterStatus, as of any setting that is reported.
 */

/** Which node it is. */
export const NODE_ID = 'walcade.node_id';

/** Which nodes are above it, the nearest first. */
export const UPSTREAM_PATH = 'walcade.upstream_path';

export function formatUpstreamPath(path: readonly string[]): string {
  return path.join(',');
}

export function parseUpstreamPath(text: string): string[] {
  return text.split(',').filter((id) => id !== '');
}
