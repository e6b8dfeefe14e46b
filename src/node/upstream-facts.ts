/**
 * What init and adopt have to know of the upstream before they make a node: whose WAL it has, and
 * which PostgreSQL it is.
 */
import type { ReplicationClient } from '../protocol/client.ts';
import { isHotStandby } from '../protocol/session-attributes.ts';
import {
  type UpstreamIdentity,
  identifySystem,
  readUpstreamPath,
  readUpstreamSettings,
  showSetting,
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
  role: 'primary' | 'standby' | 'server' | 'walcade node';
}

/** Asks the upstream who it is; throws what it answers, 08P01 for what no server would. */
export async function lookAtUpstream(client: ReplicationClient): Promise<UpstreamFacts> {
  const identity = await identifySystem(client);
  const settings = await readUpstreamSettings(client);
  const versionNum = Number(settings['server_version_num'] ?? 0);
  return {
    identity,
    settings,
    serverVersion: settings['server_version'] ?? '',
    versionNum,
    major: Math.floor(versionNum / 10_000),
    segmentBytes: parseSegmentBytes(settings['wal_segment_size'] ?? ''),
    role: await readRole(client),
  };
}

async function readRole(client: ReplicationClient): Promise<UpstreamFacts['role']> {
  if ((await readUpstreamPath(client)).length > 0) return 'walcade node';
  const show = (name: string): Promise<string | undefined> => showSetting(client, name);
  const isStandby = await isHotStandby({ parameters: client.parameters, show });
  if (isStandby === undefined) return 'server';
  return isStandby ? 'standby' : 'primary';
}
