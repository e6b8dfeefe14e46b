/**
 * Who the upstream is: what IDENTIFY_SYSTEM and SHOW say of it, asked anew on each connection.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type ReplicationClient, singleValue } from '../protocol/client.ts';
import { NODE_ID, UPSTREAM_PATH, parseUpstreamPath } from '../protocol/node-parameters.ts';
import { type Lsn, type TimelineId, parseLsn, timelineId } from '../wal/lsn.ts';
import { parseSegmentBytes } from '../wal/segment.ts';

export interface UpstreamIdentity {
  systemIdentifier: bigint;
  timeline: TimelineId;
  /** How far the upstream's WAL is flushed: what it could send now. */
  walEnd: Lsn;
}

/**
 * Settings of the upstream that downstreams ask for, or that a hot standby must match. They are
 * kept with the node, so that it can answer when the upstream is away.
 */
export const MIRRORED_SETTINGS = [
  'server_version',
  'server_version_num',
  'wal_segment_size',
  'wal_block_size',
  'block_size',
  'data_directory_mode',
  'data_checksums',
  'wal_level',
  'server_encoding',
  'integer_datetimes',
  'max_connections',
  'max_worker_processes',
  'max_prepared_transactions',
  'max_locks_per_transaction',
] as const;

/** Runs IDENTIFY_SYSTEM (manual, "Streaming Replication Protocol"). */
export async function identifySystem(client: ReplicationClient): Promise<UpstreamIdentity> {
  const results = await client.query('IDENTIFY_SYSTEM');
  const [systemIdentifier, timeline, walEnd] = [0, 1, 2].map((i) => singleValue(results, i));
  if (!/^\d+$/.test(systemIdentifier ?? '') || !/^\d+$/.test(timeline ?? '')) {
    throw new WalcadeError(
      SQLSTATE.PROTOCOL_VIOLATION,
      'could not identify system: invalid response from upstream',
      { detail: `Got system identifier "${systemIdentifier}", timeline "${timeline}".` },
    );
  }
  return {
    systemIdentifier: BigInt(systemIdentifier ?? ''),
    timeline: timelineId(Number(timeline)),
    walEnd: parseLsn(walEnd ?? ''),
  };
}

/** The value of one setting; undefined when the server does not know it (42704). */
export async function showSetting(
  client: ReplicationClient,
  name: string,
): Promise<string | undefined> {
  try {
    return singleValue(await client.query(`SHOW ${name}`), 0);
  } catch (error) {
    if (error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_OBJECT) {
      return undefined;
    }
    throw error;
  }
}

export async function readUpstreamSettings(
  client: ReplicationClient,
): Promise<Record<string, string>> {
  const settings: Record<string, string> = {};
  for (const name of MIRRORED_SETTINGS) {
    const value = await showSetting(client, name);
    if (value !== undefined) settings[name] = value;
  }
  // What it reports of itself at connection start is what its clients parse.
  const version = client.parameters.get('server_version');
  if (version !== undefined) settings['server_version'] = version;
  return settings;
}

/**
 * The identifiers of the nodes above and including this upstream; none if it is PostgreSQL, which
 * does not know the setting or has it as the session set it: empty.
 */
export async function readUpstreamPath(client: ReplicationClient): Promise<string[]> {
  const nodeId = await showSetting(client, NODE_ID);
  if (nodeId === undefined || nodeId === '') return [];
  return [nodeId, ...parseUpstreamPath((await showSetting(client, UPSTREAM_PATH)) ?? '')];
}

/** Throws 55000 unless the upstream is of the cluster with this identifier. */
export function checkSystemIdentifier(identity: UpstreamIdentity, expected: bigint): void {
  if (identity.systemIdentifier === expected) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'database system identifier differs between the upstream and this node',
    {
      detail:
        `The upstream's identifier is ${identity.systemIdentifier}, ` +
        `this node's identifier is ${expected}.`,
      hint: 'Point primary_conninfo at a server of the same cluster, or make the node anew.',
    },
  );
}

/** What must hold before the upstream's WAL may join what is stored; throws what does not. */
export function checkSameCluster(
  identity: UpstreamIdentity,
  settings: Record<string, string>,
  store: { systemIdentifier: bigint; segmentBytes: number },
): void {
  checkSystemIdentifier(identity, store.systemIdentifier);
  const segmentBytes = parseSegmentBytes(settings['wal_segment_size'] ?? '');
  if (segmentBytes !== store.segmentBytes) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      'WAL segment size differs between the upstream and this node',
      {
        detail:
          `The upstream's segments have ${segmentBytes} bytes, ` +
          `this node's have ${store.segmentBytes}.`,
      },
    );
  }
}

/** Throws 55000 unless the upstream has come to the timeline of this node. */
export function checkTimelineReached({ timeline }: UpstreamIdentity, own: TimelineId): void {
  if (timeline >= own) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `highest timeline ${timeline} of the upstream is behind this node's timeline ${own}`,
    { hint: 'Point primary_conninfo at the server that this node followed, or one below it.' },
  );
}
