/**
 * The downstreams of this node, one entry for each WAL sender session: who they are, where
 * they are, and what they ask to be kept. The receiver reads the sum of it, status reads all of it.
 *
 * An entry lives as long as its session.
 */
import { Condition } from '../base/condition.ts';
import type { PeerAddress } from '../protocol/network.ts';
import type { LinkCompression } from '../protocol/node-parameters.ts';
import type { ReplicationSlot, ReplicationSlots } from '../store/replication-slots.ts';
import { INVALID_LSN, type Lsn, type TimelineId } from '../wal/lsn.ts';
import { DivergedDownstreams } from './diverged-downstreams.ts';
import { LiveFeeds } from './live-feed.ts';
import { WalFrames } from './wal-frames.ts';

/** As in pg_stat_replication; a session that is not streaming is in `startup`. */
export type SenderState = 'startup' | 'backup' | 'catchup' | 'streaming' | 'stopping';

export interface Downstream {
  readonly pid: number;
  readonly user: string;
  readonly applicationName: string;
  readonly peer: PeerAddress;
  readonly startedMs: number;
  /** The attached server's own WAL receiver, over the private socket. */
  readonly isAttached: boolean;
  /** Whether it is sent compressed WAL, as it has asked for. */
  compression: LinkCompression;
  /** How much it has been sent on this connection: all that went over the wire, and WAL. */
  readonly wireBytes: () => number;
  walBytes: number;
  state: SenderState;
  timeline: TimelineId | undefined;
  slot: ReplicationSlot | undefined;
  /** Positions as in pg_stat_replication; 0/0 is not known. */
  sent: Lsn;
  write: Lsn;
  flush: Lsn;
  replay: Lsn;
  /** When the last status update was sent, as the downstream tells it (µs since 2000). */
  replyTimeUs: bigint | undefined;
  /** Hot standby feedback of a session without a slot, as 64-bit xids; 0 asks for nothing. */
  xmin: bigint;
  catalogXmin: bigint;
}

export class DownstreamTable {
  readonly #slots: ReplicationSlots;
  readonly #entries = new Map<number, Downstream>();
  /** Notified when what the downstreams ask to be kept may have changed. */
  readonly feedbackChanged = new Condition();
  /** Notified when `replayed` has advanced. */
  readonly replayedChanged = new Condition();
  readonly diverged = new DivergedDownstreams();
  /** Compressed WAL, made once for all of them. */
  readonly frames = new WalFrames();
  /** Sends what comes to all of them that have what came before. */
  readonly live = new LiveFeeds();
  #replayed: Lsn = INVALID_LSN;

  constructor(slots: ReplicationSlots) {
    this.#slots = slots;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** How far the attached server has said that it has replayed; 0/0 for a relay. */
  get replayed(): Lsn {
    return this.#replayed;
  }

  /** Takes a downstream's status update into account, as far as it is the attached server's. */
  noteReplay({ isAttached, replay }: Downstream): void {
    if (!isAttached || replay <= this.#replayed) return;
    this.#replayed = replay;
    this.replayedChanged.notify();
  }

  all(): Downstream[] {
    return [...this.#entries.values()];
  }

  /** All but the attached server's own WAL receiver. */
  others(): Downstream[] {
    return this.all().filter(({ isAttached }) => !isAttached);
  }

  add(
    session: Pick<
      Downstream,
      'pid' | 'user' | 'applicationName' | 'peer' | 'startedMs' | 'isAttached' | 'wireBytes'
    >,
  ): Downstream {
    const downstream: Downstream = {
      ...session,
      compression: 'off',
      walBytes: 0,
      state: 'startup',
      timeline: undefined,
      slot: undefined,
      sent: INVALID_LSN,
      write: INVALID_LSN,
      flush: INVALID_LSN,
      replay: INVALID_LSN,
      replyTimeUs: undefined,
      xmin: 0n,
      catalogXmin: 0n,
    };
    this.#entries.set(session.pid, downstream);
    return downstream;
  }

  remove({ pid }: Downstream): void {
    this.#entries.delete(pid);
    this.feedbackChanged.notify();
  }

  /** The oldest that any downstream, or the slot of one that is away, asks to be kept. */
  feedback(): { xmin: bigint; catalogXmin: bigint } {
    const all = [...this.#entries.values(), ...this.#slots.all()];
    return {
      xmin: oldestXid(all.map(({ xmin }) => xmin)),
      catalogXmin: oldestXid(all.map(({ catalogXmin }) => catalogXmin)),
    };
  }
}

/** The smallest of 64-bit xids; 0 asks for nothing and does not count. */
export function oldestXid(xids: readonly bigint[]): bigint {
  let oldest = 0n;
  for (const xid of xids) {
    if (xid !== 0n && (oldest === 0n || xid < oldest)) oldest = xid;
  }
  return oldest;
}
