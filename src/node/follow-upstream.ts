/**
 * `walcade follow`: a running node goes over to another upstream. Whatever can be known before is
 * found out first, over a connection of its own; only then is primary_conninfo changed, in
 * walcade.conf and by a reload, and the receiver goes over as it does after any reload.
 *
 *   connect ─▶ examine, wait while it is behind ─▶ write walcade.conf ─▶ reload ─▶ until it streams
 *
 * A request lives as long as who has asked waits for the answer. Before the file is written nothing
 * has changed; what comes after is not undone.
 */
import type { ReloadOutcome } from '../admin/control-socket.ts';
import type { FollowOutcome, Report } from '../admin/follow-outcome.ts';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { Serial } from '../base/serial.ts';
import { changeParameter } from '../config/conf-change.ts';
import { loadHba } from '../config/hba.ts';
import type { NodeConfig } from '../config/parameters.ts';
import type { ServerRole } from '../postgres/server-role.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import { describeAddress } from '../protocol/network.ts';
import { readUpstreamHistory } from '../receiver/upstream-histories.ts';
import {
  type UpstreamIdentity,
  checkSameCluster,
  identifySystem,
  readUpstreamPath,
  readUpstreamSettings,
} from '../receiver/upstream-identity.ts';
import { type Join, type OwnWal, type UpstreamWal, joinOf } from '../receiver/upstream-join.ts';
import { checkUpstreamPath } from '../receiver/upstream-path.ts';
import type { WalReceiver } from '../receiver/wal-receiver.ts';
import { findDifference } from '../receiver/wal-comparison.ts';
import type { ControlFile } from '../store/control-file.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import type { WalStore } from '../store/wal-store.ts';
import { beginOf, parseHistoryFile, rootHistory } from '../wal/history.ts';
import { partingPoint } from '../wal/history-parting.ts';
import { type TimelineId, minLsn } from '../wal/lsn.ts';
import {
  doesNotStreamYet,
  hasForked,
  hasOtherWal,
  isBehind,
  isContested,
  isTooFar,
  serverIsPast,
  serverLeads,
  slotIsLeft,
  walIsRemoved,
} from './follow-refusals.ts';

export interface FollowOptions {
  directory: string;
  /** Connects to whom a connection string names; throws what connectUpstream() throws. */
  connect: (conninfo: string, signal: AbortSignal) => Promise<ReplicationClient>;
  store: WalStore;
  histories: HistoryFiles;
  control: ControlFile;
  receiver: WalReceiver;
  /** What the attached server is; undefined for a relay. */
  serverRole: () => ServerRole | undefined;
  config: () => NodeConfig;
  /** Reads the configuration anew. */
  reload: () => Promise<ReloadOutcome>;
  clock: Clock;
}

/** How long all that comes before a change may take. */
const EXAMINATION_MS_MAX = 60_000;
/** A standby is always a little behind: so long it may take to reach what is here at the start. */
const CATCHUP_MS_MAX = 5_000;
const STREAMING_MS_MAX = 10_000;
const POLL_MS = 100;

export class UpstreamFollower {
  readonly #options: FollowOptions;
  readonly #requests = new Serial();

  constructor(options: FollowOptions) {
    this.#options = options;
  }

  /** Has the node follow the upstream that `conninfo` names; resolves also when it is refused. */
  follow(conninfo: string, signal: AbortSignal): Promise<FollowOutcome> {
    return this.#requests.run(async () => {
      const notices: Report[] = [];
      try {
        await new Follow(this.#options, conninfo, notices).run(signal);
        return { error: null, notices };
      } catch (error) {
        return { error: report(error), notices };
      }
    });
  }
}

function report(error: unknown): Report {
  const { message, detail, hint } = asWalcadeError(error);
  return { message, detail, hint };
}

class Follow {
  readonly #options: FollowOptions;
  readonly #conninfo: string;
  readonly #notices: Report[];

  constructor(options: FollowOptions, conninfo: string, notices: Report[]) {
    this.#options = options;
    this.#conninfo = conninfo;
    this.#notices = notices;
  }

  async run(signal: AbortSignal): Promise<void> {
    const { directory, receiver, reload, config, serverRole } = this.#options;
    if (isLeading(serverRole())) throw serverLeads();
    await this.#withinTime(signal, (limit) => this.#examine(limit));
    signal.throwIfAborted();
    // What a reload would refuse is found out before anything is written.
    await loadHba(directory);
    // It may have been promoted meanwhile.
    if (isLeading(serverRole())) throw serverLeads();
    const former = { slot: config().primarySlotName, address: receiver.status.upstream };
    await changeParameter(directory, 'primary_conninfo', this.#conninfo);
    const { error } = await reload();
    if (error !== null) throw new WalcadeError(SQLSTATE.CONFIG_FILE_ERROR, error.message, error);
    await this.#untilStreaming(signal);
    const { upstream } = receiver.status;
    if (former.slot === '' || former.address === undefined || former.address === upstream) return;
    this.#notices.push(report(slotIsLeft(former.slot, former.address)));
  }

  async #withinTime(
    signal: AbortSignal,
    action: (limit: AbortSignal) => Promise<void>,
  ): Promise<void> {
    const limit = new AbortController();
    const timer = this.#options.clock.setTimer(EXAMINATION_MS_MAX, () =>
      limit.abort(
        new WalcadeError(
          SQLSTATE.CONNECTION_FAILURE,
          `upstream has not answered within ${EXAMINATION_MS_MAX / 1000} s`,
          { detail: 'Nothing has been changed.' },
        ),
      ),
    );
    try {
      await action(AbortSignal.any([signal, limit.signal]));
    } finally {
      timer.cancel();
    }
  }

  /** Throws why the upstream cannot be followed; notes what would come of following it. */
  async #examine(signal: AbortSignal): Promise<void> {
    const client = await this.#options.connect(this.#conninfo, signal);
    const abandon = (): void => client.connection.stopReading(signal.reason as Error);
    signal.addEventListener('abort', abandon, { once: true });
    try {
      signal.throwIfAborted();
      await this.#checkIdentity(client);
      await this.#checkWal(client, signal);
    } finally {
      signal.removeEventListener('abort', abandon);
      await client.close();
    }
  }

  async #checkIdentity(client: ReplicationClient): Promise<void> {
    const { data } = this.#options.control;
    const identity = await identifySystem(client);
    checkSameCluster(identity, await readUpstreamSettings(client), data);
    const path = await readUpstreamPath(client);
    checkUpstreamPath(path, { nodeId: data.nodeId, address: describeAddress(client.address) });
  }

  async #checkWal(client: ReplicationClient, signal: AbortSignal): Promise<void> {
    const address = describeAddress(client.address);
    const { own, upstream, join } = await this.#joinInTime(client, signal);
    if (join.kind === 'behind') throw isBehind(address, own, upstream);
    if (join.kind === 'contested') throw isContested(address, join);
    if (join.kind === 'too-far') throw isTooFar(address, own, join.at);
    if (join.kind === 'forked') {
      if (this.#options.serverRole() !== undefined) throw serverIsPast(address, own, join.at);
      this.#notices.push(report(hasForked(address, own, join.at)));
    }
    await this.#compareWal(client, own, upstream);
  }

  /** How the two would join, once the upstream has what this node has now, or has not in time. */
  async #joinInTime(
    client: ReplicationClient,
    signal: AbortSignal,
  ): Promise<{ own: OwnWal; upstream: UpstreamWal; join: Join }> {
    const { store, clock } = this.#options;
    const deadlineMs = clock.monotonicMs() + CATCHUP_MS_MAX;
    const served = store.served.value;
    for (;;) {
      const identity = await identifySystem(client);
      const history = await this.#historyOf(client, identity);
      const own = { history: store.history, oldest: store.oldest, served };
      const upstream = { history, walEnd: identity.walEnd };
      const join = joinOf(own, upstream);
      const isLate = clock.monotonicMs() >= deadlineMs;
      if (join.kind !== 'behind' || isLate) return { own, upstream, join };
      await clock.sleep(POLL_MS, signal);
    }
  }

  /** The upstream's history. Throws 55000 if its file for this node's timeline is another one. */
  async #historyOf(client: ReplicationClient, { timeline }: UpstreamIdentity) {
    const { store, histories } = this.#options;
    const own = store.timeline;
    const content = await this.#fileOf(client, timeline, { mayBeMissing: false });
    const history = content ? parseHistoryFile(timeline, content) : rootHistory(timeline);
    const theirs =
      own === timeline ? content : await this.#fileOf(client, own, { mayBeMissing: true });
    const ours = await histories.read(own);
    if (theirs === undefined || ours === undefined || ours.equals(theirs)) return history;
    // The same switch points with other comments: two promotions at one position.
    const position = beginOf(store.history);
    const parent = store.history.entries.at(-1)?.timeline;
    const parts = partingPoint(store.history, parseHistoryFile(own, theirs));
    const at = parts ?? { timeline: parent, position };
    throw isContested(describeAddress(client.address), { timeline: own, at });
  }

  async #fileOf(
    client: ReplicationClient,
    timeline: TimelineId,
    options: { mayBeMissing: boolean },
  ): Promise<Buffer | undefined> {
    return timeline === 1 ? undefined : readUpstreamHistory(client, timeline, options);
  }

  /** That numbers and histories are the same says nothing of the bytes. */
  async #compareWal(client: ReplicationClient, own: OwnWal, upstream: UpstreamWal): Promise<void> {
    const address = describeAddress(client.address);
    const parts = partingPoint(own.history, upstream.history);
    const timeline = parts?.timeline ?? own.history.timeline;
    const end = minLsn(own.served, parts?.position ?? own.served);
    const walEnd = minLsn(upstream.walEnd, parts?.position ?? upstream.walEnd);
    try {
      const range = { timeline, end, walEnd };
      const difference = await findDifference(client, this.#options.store, range);
      if (difference !== undefined) throw hasOtherWal(address, timeline, difference);
    } catch (error) {
      const isRemoved = error instanceof WalcadeError && error.sqlstate === SQLSTATE.UNDEFINED_FILE;
      throw isRemoved ? walIsRemoved(address, end, error) : error;
    }
  }

  async #untilStreaming(signal: AbortSignal): Promise<void> {
    const { receiver, serverRole, clock } = this.#options;
    const deadlineMs = clock.monotonicMs() + STREAMING_MS_MAX;
    for (;;) {
      if (isLeading(serverRole())) throw doesNotStreamYet('The server of this node is promoted');
      const { state, reason } = receiver.status;
      if (state === 'streaming') return;
      if (clock.monotonicMs() >= deadlineMs) throw doesNotStreamYet(reason);
      await clock.sleep(POLL_MS, signal);
    }
  }
}

/** Whether the attached server is a primary, or about to be one. */
function isLeading(role: ServerRole | undefined): boolean {
  return role !== undefined && role !== 'standby';
}
