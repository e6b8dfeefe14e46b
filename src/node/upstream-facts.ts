/**
 * What init and adopt have to know of the upstream before they make a node: whose WAL it has, and
 * which PostgreSQL it is.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import {
  type UpstreamIdentity,
  identifySystem,
  readUpstreamPath,
  readUpstreamSettings,
} from '../receiver/upstream-identity.ts';
import { parseSegmentBytes } from '../wal/segment.ts';

export interface UpstreamFacts {
  identity: UpstreamIdentity;
  settings: Record<string, string>;
  serverVersion: string;
  versionNum: number;
  /** The major version: 18 of 18.4. */
  major: number;
  segmentBytes: number;
  role: 'primary' | 'standby' | 'walcade node';
}

/** Throws 55000 for an upstream whose WAL cannot be replicated. */
export async function lookAtUpstream(client: ReplicationClient): Promise<UpstreamFacts> {
  const identity = await identifySystem(client);
  const settings = await readUpstreamSettings(client);
  const path = await readUpstreamPath(client);
  const walLevel = settings['wal_level'] ?? '';
  if (walLevel === 'minimal') {
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      'WAL of the upstream has wal_level=minimal, which cannot be replicated',
      { hint: 'Set wal_level to "replica" on the primary and restart it.' },
    );
  }
  const isStandby = client.parameters.get('in_hot_standby') === 'on';
  const standbyOrPrimary = isStandby ? 'standby' : 'primary';
  const versionNum = Number(settings['server_version_num'] ?? 0);
  return {
    identity,
    settings,
    serverVersion: settings['server_version'] ?? '',
    versionNum,
    major: Math.floor(versionNum / 10_000),
    segmentBytes: parseSegmentBytes(settings['wal_segment_size'] ?? ''),
    role: path.length > 0 ? 'walcade node' : standbyOrPrimary,
  };
}
