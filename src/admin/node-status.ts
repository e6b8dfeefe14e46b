/**
 * What a node says of itself: the value behind `walcade status`, and nothing that is a secret.
 */
import type { Clock } from '../base/clock.ts';
import { describePeer } from '../protocol/network.ts';
import type { WalReceiver } from '../receiver/wal-receiver.ts';
import type { Downstream, DownstreamTable } from '../sender/downstreams.ts';
import type { ControlFile } from '../store/control-file.ts';
import type { ReplicationSlots } from '../store/replication-slots.ts';
import type { WalStore } from '../store/wal-store.ts';
import { INVALID_LSN, type Lsn, formatLsn } from '../wal/lsn.ts';
import { formatSegmentBytes } from '../wal/segment.ts';

/** LSNs are `X/X` texts, times ISO 8601, bytes numbers; what is not known is null. */
export interface NodeStatus {
  name: string;
  pid: number;
  state: 'running' | 'stopping';
  nodeId: string;
  systemIdentifier: string;
  serverVersion: string;
  segmentSize: string;
  timeline: number;
  startedAt: string;
  listen: string[];
  upstream: {
    conninfo: string;
    /** The attached server leads, and is the upstream in force, not what the conninfo names. */
    isAttached: boolean;
    slot: string | null;
    state: string;
    reason: string | null;
    /** Where it is connected to, of all hosts that the conninfo names. */
    address: string | null;
    /** The upstream's own timeline; WAL is received on that of the node, until it comes to this. */
    timeline: number | null;
    walEnd: string | null;
    lagBytes: number | null;
    lastMessageSentAt: string | null;
    /** The connection that it streams on, or is about to. */
    link: LinkStatus | null;
  };
  /** The attached PostgreSQL server; null for a relay. */
  server: ServerStatus | null;
  positions: {
    oldest: string;
    received: string;
    written: string;
    flushed: string;
    proven: string;
    served: string;
  };
  failure: string | null;
  downstreams: DownstreamStatus[];
  /** Standbys with WAL that is in no history of this node, seen within the last minute. */
  diverged: DivergedStatus[];
  slots: SlotStatus[];
}

/** What is known of the attached server. */
export interface ServerStatus {
  version: string;
  dataDirectory: string;
  state: string;
  role: string;
  pid: number | null;
  /** Why it does not answer SQL, or does not receive. */
  reason: string | null;
  /** How often it has been started again since the node was. */
  restarts: number;
  replay: string | null;
  lagBytes: number | null;
}

/** As a row of pg_stat_replication. */
export interface DownstreamStatus {
  pid: number;
  user: string;
  applicationName: string;
  address: string;
  startedAt: string;
  state: string;
  timeline: number | null;
  slot: string | null;
  sent: string | null;
  write: string | null;
  flush: string | null;
  replay: string | null;
  lagBytes: number | null;
  replyAt: string | null;
  link: LinkStatus;
}

/** A connection: how WAL goes over it, and how much has since it was made. */
export interface LinkStatus {
  compression: 'off' | 'zstd';
  wireBytes: number;
  walBytes: number;
  /** How many bytes less than WAL went over the wire. */
  savedBytes: number;
}

/** A standby that no WAL of this node can lead on. */
export interface DivergedStatus {
  applicationName: string;
  user: string;
  address: string;
  position: string;
  timeline: number;
  switchPoint: string;
}

/** As a row of pg_replication_slots. */
export interface SlotStatus {
  name: string;
  temporary: boolean;
  active: boolean;
  activePid: number | null;
  restartLsn: string | null;
  keptBytes: number | null;
  xmin: string | null;
  catalogXmin: string | null;
}

export interface StatusSources {
  name: string;
  conninfo: string;
  isLeading: boolean;
  slot: string | undefined;
  listen: string[];
  startedMs: number;
  isStopping: boolean;
  control: ControlFile;
  store: WalStore;
  receiver: WalReceiver;
  downstreams: DownstreamTable;
  slots: ReplicationSlots;
  attachment: AttachmentSource | undefined;
  clock: Clock;
}

/** The attached server, as far as its status is concerned. */
export interface AttachmentSource {
  readonly dataDirectory: string;
  readonly programs: { readonly version: string };
  readonly server: {
    readonly status: {
      state: string;
      role: string;
      pid: number | undefined;
      reason: string | undefined;
      restarts: number;
    };
  };
}

const CUT_OFF =
  'Its WAL receiver is not connected; a server that is behind replays what is in pg_wal first.';
const DIVERGED =
  'It has replayed WAL that is not in the history of the upstream: run "walcade rejoin".';
const POSTGRES_EPOCH_MS = 946_684_800_000;

export function nodeStatus(sources: StatusSources): NodeStatus {
  const { control, store, receiver } = sources;
  const { status } = receiver;
  const served = store.served.value;
  return {
    name: sources.name,
    pid: process.pid,
    state: sources.isStopping ? 'stopping' : 'running',
    nodeId: control.data.nodeId,
    systemIdentifier: control.data.systemIdentifier.toString(),
    serverVersion: control.data.upstreamSettings['server_version'] ?? '',
    segmentSize: formatSegmentBytes(store.segmentBytes),
    timeline: store.timeline,
    startedAt: new Date(sources.startedMs).toISOString(),
    listen: sources.listen,
    upstream: {
      conninfo: sources.conninfo,
      isAttached: sources.isLeading,
      slot: sources.slot ?? null,
      state: status.state,
      reason: status.reason ?? null,
      address: status.upstream ?? null,
      timeline: status.upstreamTimeline ?? null,
      walEnd: status.upstreamWalEnd === undefined ? null : formatLsn(status.upstreamWalEnd),
      lagBytes: lagBytes(store.received, status.upstreamWalEnd),
      lastMessageSentAt: formatTimestampUs(status.upstreamSentAtUs),
      link: status.link === undefined ? null : linkStatus(status.link),
    },
    server: serverStatus(sources),
    positions: {
      oldest: formatLsn(store.oldest),
      received: formatLsn(store.received),
      written: formatLsn(store.written),
      flushed: formatLsn(store.flushed),
      proven: formatLsn(store.proven),
      served: formatLsn(served),
    },
    failure: store.failure?.message ?? null,
    downstreams: sources.downstreams.others().map((d) => ({
      pid: d.pid,
      user: d.user,
      applicationName: d.applicationName,
      address: describePeer(d.peer),
      startedAt: new Date(d.startedMs).toISOString(),
      state: d.state,
      timeline: d.timeline ?? null,
      slot: d.slot?.name ?? null,
      sent: formatKnown(d.sent),
      write: formatKnown(d.write),
      flush: formatKnown(d.flush),
      replay: formatKnown(d.replay),
      lagBytes: d.write === INVALID_LSN ? null : lagBytes(d.write, served),
      replyAt: formatTimestampUs(d.replyTimeUs),
      link: linkStatus(d),
    })),
    diverged: sources.downstreams.diverged
      .all(sources.clock.monotonicMs())
      .filter(({ isAttached }) => !isAttached)
      .map(({ applicationName, user, peer, position, timeline, switchPoint }) => ({
        applicationName,
        user,
        address: describePeer(peer),
        position: formatLsn(position),
        timeline,
        switchPoint: formatLsn(switchPoint),
      })),
    slots: sources.slots.all().map((slot) => ({
      name: slot.name,
      temporary: slot.temporary,
      active: slot.activePid !== undefined,
      activePid: slot.activePid ?? null,
      restartLsn: slot.restartLsn === undefined ? null : formatLsn(slot.restartLsn),
      keptBytes: slot.restartLsn === undefined ? null : lagBytes(slot.restartLsn, store.received),
      xmin: slot.xmin === 0n ? null : slot.xmin.toString(),
      catalogXmin: slot.catalogXmin === 0n ? null : slot.catalogXmin.toString(),
    })),
  };
}

function linkStatus({
  compression,
  wireBytes: countWireBytes,
  walBytes,
}: Pick<Downstream, 'compression' | 'wireBytes' | 'walBytes'>): LinkStatus {
  const wireBytes = countWireBytes();
  return { compression, wireBytes, walBytes, savedBytes: Math.max(0, walBytes - wireBytes) };
}

function serverStatus({
  attachment,
  downstreams,
  store,
  clock,
}: StatusSources): NodeStatus['server'] {
  if (attachment === undefined) return null;
  const { dataDirectory, programs, server } = attachment;
  const { state, role, pid, reason, restarts } = server.status;
  const isStandby = role === 'standby';
  // What a primary had to replay is of the past.
  const replayed = isStandby ? downstreams.replayed : INVALID_LSN;
  const isReceiving = downstreams.all().some((d) => d.isAttached && d.state !== 'startup');
  const isCutOff = isStandby && state === 'ready' && !isReceiving;
  const isDiverged = downstreams.diverged.all(clock.monotonicMs()).some((d) => d.isAttached);
  return {
    version: programs.version,
    dataDirectory,
    state,
    role,
    pid: pid ?? null,
    reason: reason ?? (isDiverged ? DIVERGED : isCutOff ? CUT_OFF : null),
    restarts,
    replay: formatKnown(replayed),
    lagBytes: replayed === INVALID_LSN ? null : lagBytes(replayed, store.served.value),
  };
}

function lagBytes(position: Lsn, end: Lsn | undefined): number | null {
  if (end === undefined) return null;
  return end > position ? Number(end - position) : 0;
}

function formatKnown(position: Lsn): string | null {
  return position === INVALID_LSN ? null : formatLsn(position);
}

/** A peer may say any time; what no Date can hold (PostgreSQL's infinity) is not known. */
function formatTimestampUs(timestampUs: bigint | undefined): string | null {
  if (timestampUs === undefined) return null;
  const time = new Date(Number(timestampUs / 1000n) + POSTGRES_EPOCH_MS);
  return Number.isNaN(time.getTime()) ? null : time.toISOString();
}
