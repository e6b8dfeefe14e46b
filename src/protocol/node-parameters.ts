/**
 * What nodes tell each other beyond PostgreSQL's protocol, by means of it: two settings that SHOW
 * answers. A downstream that is a node says so by setting the second one at connection start; while
 * it streams it is told of changes by ParameterStatus, as of any setting that is reported.
 *
 * Compression is asked for by an option of the protocol, which a PostgreSQL server says that it
 * does not know. A node answers by a ParameterStatus what it will do, to none but who has asked.
 */
import type { SessionStartup } from './startup.ts';

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

/** The option with which a downstream asks to be sent compressed WAL, and what it may ask for. */
export const COMPRESSION_OPTION = '_pq_.walcade_compression';

/** What is done about it on the connection: a LinkCompression. */
export const LINK_COMPRESSION = 'walcade.compression';

export type LinkCompression = 'off' | 'zstd';

/** What the option asks for; undefined if it is not there. What is not known is not done. */
export function wantedCompression({
  protocolExtensions,
}: SessionStartup): LinkCompression | undefined {
  const wanted = protocolExtensions.get(COMPRESSION_OPTION);
  if (wanted === undefined) return undefined;
  return wanted === 'zstd' ? wanted : 'off';
}
