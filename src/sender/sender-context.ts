/**
 * What the sessions of one node share. The composition root makes it; it lives as long as the node.
 */
import type { Clock } from '../base/clock.ts';
import type { Condition } from '../base/condition.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import type { ReplicationSlots } from '../store/replication-slots.ts';
import type { WalStore } from '../store/wal-store.ts';
import type { Lsn } from '../wal/lsn.ts';
import type { DownstreamTable } from './downstreams.ts';

export interface SenderSettings {
  /** wal_sender_timeout; 0 never gives up. */
  walSenderTimeoutMs: number;
  /** wal_receiver_timeout, for upstreams whose WAL is passed on; 0 never gives up. */
  walReceiverTimeoutMs: number;
  logReplicationCommands: boolean;
}

/** A setting as SHOW ALL lists it. */
export interface ShownSetting {
  name: string;
  value: string;
  description: string;
}

export interface SenderContext {
  store: WalStore;
  histories: HistoryFiles;
  slots: ReplicationSlots;
  downstreams: DownstreamTable;
  /** Where WAL is held for base backups that pass through: their starts. */
  backupStarts: Set<{ start: Lsn }>;
  systemIdentifier: bigint;
  settings: () => SenderSettings;
  /** What the upstream says of itself: server_version and what else downstreams ask for. */
  upstreamSettings: () => Readonly<Record<string, string>>;
  /** Every setting that SHOW answers, this node's own and the upstream's. */
  shownSettings: () => ShownSetting[];
  /** The nodes above this one, the nearest first. */
  upstreamPath: { current: () => readonly string[]; changed: Condition };
  /** Where recovery of the attached server begins; undefined for a relay. */
  attachedRedo: () => Lsn | undefined;
  /** Whether this node follows, as its sessions report it: `in_hot_standby`. */
  isInRecovery: () => boolean;
  /** Whether there is an upstream: a node may live by an archive alone. */
  hasUpstream: () => boolean;
  /** A further connection to the upstream, for what this node passes on. */
  connectUpstream(signal: AbortSignal): Promise<ReplicationClient>;
  /** A connection to a server with data pages: the attached one, or the upstream. */
  connectForBackup(signal: AbortSignal): Promise<ReplicationClient>;
  clock: Clock;
}

/** The upstream's server_version_num: 150018 is 15.18. */
export function serverVersionNum(context: SenderContext): number {
  return Number(context.upstreamSettings()['server_version_num'] ?? 0);
}
