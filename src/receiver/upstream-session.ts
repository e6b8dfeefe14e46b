/**
 * One connection to the upstream: from the checks that it is of this node's cluster and history to
 * the end of its last stream, over as many timelines as the upstream goes on to.
 *
 *   check ─▶ wait while it is behind ─▶ branch | stream ─▶ wait …
 *
 * It ends when the upstream shuts down, and rejects with whatever breaks it off.
 */
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { ReplicationClient, StreamStart } from '../protocol/client.ts';
import { CompressedWalReader } from '../protocol/compressed-wal.ts';
import { describeAddress } from '../protocol/network.ts';
import { UPSTREAM_PATH, parseUpstreamPath } from '../protocol/node-parameters.ts';
import { formatStartReplication } from '../protocol/replication-command.ts';
import type { ControlFile } from '../store/control-file.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import type { WalStore } from '../store/wal-store.ts';
import { historyFileName } from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn } from '../wal/lsn.ts';
import { RatePause } from './rate-pause.ts';
import type { Feedback } from './status-report.ts';
import { type StreamEnd, parseTimelineEnd } from './stream-end.ts';
import { StoredOverlap } from './stored-overlap.ts';
import { type TimelineStep, nextStep } from './timeline-step.ts';
import { fetchHistories } from './upstream-histories.ts';
import {
  type UpstreamIdentity,
  checkSameCluster,
  checkTimelineReached,
  identifySystem,
  readUpstreamPath,
  readUpstreamSettings,
} from './upstream-identity.ts';
import { checkUpstreamPath } from './upstream-path.ts';
import { createUpstreamSlot } from './upstream-slot.ts';
import { type StreamSettings, UpstreamStream, type WalStreamOptions } from './wal-stream.ts';

export interface SessionSettings extends StreamSettings {
  /** wal_retrieve_retry_interval. */
  retryIntervalMs: number;
  /** max_rate, in bytes per second; 0 is no limit. */
  maxRateBytes: number;
  /** primary_slot_name; undefined streams without a slot. */
  slotName: string | undefined;
}

export interface UpstreamSessionOptions
  extends Pick<WalStreamOptions, 'apply' | 'applyChanged' | 'feedbackChanged'> {
  store: WalStore;
  control: ControlFile;
  histories: HistoryFiles;
  settings: () => SessionSettings;
  /** Connects to the upstream anew. */
  connect: (signal: AbortSignal) => Promise<ReplicationClient>;
  feedback: () => Feedback;
  /** Whether WAL may be elsewhere that the upstream has not got yet. */
  hasArchive: () => boolean;
  clock: Clock;
  log: Log;
}

/** `left`: the upstream has no WAL for this node yet, and an archive may have. */
export type SessionEnd = 'upstream-shut-down' | 'left';

type TimelineEnded = StreamEnd & { kind: 'timeline-ended' };

/** What happens in a session, told as it happens. */
export interface SessionEvents {
  /** The nodes above, once they are known. */
  onPath(path: string[]): void;
  /** The upstream's timeline, each time that it has been asked. */
  onTimeline(timeline: TimelineId): void;
  onWaiting(reason: string): void;
  onStreaming(): void;
  /** So many bytes of WAL have come. */
  onWal(bytes: number): void;
  /** The upstream has told a position; `isGood` when WAL came that is new and proven. */
  onPosition(walEnd: Lsn, sentAtUs: bigint, isGood: boolean): void;
}

export class UpstreamSession {
  readonly #client: ReplicationClient;
  readonly #options: UpstreamSessionOptions;
  readonly #events: SessionEvents;
  readonly #store: WalStore;
  readonly #clock: Clock;
  readonly #log: Log;
  /** The upstream's identity, if it is a node. */
  #upstreamId: string | undefined;

  constructor(client: ReplicationClient, options: UpstreamSessionOptions, events: SessionEvents) {
    this.#client = client;
    this.#options = options;
    this.#events = events;
    this.#store = options.store;
    this.#clock = options.clock;
    this.#log = options.log;
  }

  /** Receives until there is nothing to wait for here; rejects if the session breaks off. */
  async run(signal: AbortSignal): Promise<SessionEnd> {
    await this.#answered(() => this.#check());
    // What is compared: by the first stream on a timeline that goes on there.
    let isCompared = false;
    let ended: TimelineEnded | undefined;
    for (;;) {
      const identity = await this.#waitUntilAhead(signal);
      if (identity === undefined) return 'left';
      const step = await this.#nextStep(identity);
      if (step.kind === 'branch') {
        await this.#branch(step, signal);
      } else if (ended !== undefined && ended.timeline === this.#store.timeline) {
        this.#tellTimelineEnd(ended);
        if (!(await this.#waitPatiently(signal))) return 'left';
      } else {
        const isToCompare: boolean = !isCompared && identity.timeline === this.#store.timeline;
        const overlap = isToCompare ? await StoredOverlap.read(this.#store) : undefined;
        isCompared ||= isToCompare;
        const end = await this.#stream(overlap, signal);
        if (end.kind === 'upstream-shut-down') return end.kind;
        ended = end;
      }
    }
  }

  async #check(): Promise<void> {
    const { control } = this.#options;
    const identity = await identifySystem(this.#client);
    const settings = await readUpstreamSettings(this.#client);
    checkSameCluster(identity, settings, control.data);
    checkTimelineReached(identity, this.#store.timeline);
    await this.#checkPath();
    await this.#fetchHistories(identity);
    this.#store.learnHistory(await this.#options.histories.history(this.#store.timeline));
    const known = control.data.upstreamSettings;
    if (Object.entries(settings).some(([name, value]) => known[name] !== value)) {
      await control.update({ upstreamSettings: { ...known, ...settings } });
    }
  }

  async #checkPath(): Promise<void> {
    const path = await readUpstreamPath(this.#client);
    this.#upstreamId = path[0];
    this.#takePath(path);
  }

  /** Of a loop too the path is told: those below must know of it, and the others of the loop. */
  #takePath(path: string[]): void {
    const { nodeId } = this.#options.control.data;
    const own = path.indexOf(nodeId);
    this.#events.onPath(own < 0 ? path : path.slice(0, own + 1));
    checkUpstreamPath(path, { nodeId, address: describeAddress(this.#client.address) });
  }

  /** The nodes above an upstream may change while it streams. */
  #takeParameter({ name, value }: { name: string; value: string }): void {
    if (name !== UPSTREAM_PATH || this.#upstreamId === undefined) return;
    this.#takePath([this.#upstreamId, ...parseUpstreamPath(value)]);
  }

  #fetchHistories({ timeline }: UpstreamIdentity): Promise<void> {
    const timelines = { own: this.#store.timeline, upstream: timeline };
    return fetchHistories(this.#client, this.#options.histories, timelines);
  }

  /** What `ask` gives; an upstream that does not answer within wal_receiver_timeout is left. */
  async #answered<T>(ask: () => Promise<T>): Promise<T> {
    const { timeoutMs } = this.#options.settings();
    if (timeoutMs === 0) return ask();
    const timer = this.#clock.setTimer(timeoutMs, () => {
      const detail = `The upstream has not answered for ${timeoutMs} ms.`;
      this.#client.connection.stopReading(
        new WalcadeError(SQLSTATE.CONNECTION_FAILURE, 'terminating WAL receiver due to timeout', {
          detail,
        }),
      );
    });
    try {
      return await ask();
    } finally {
      timer.cancel();
    }
  }

  /**
   * Waits while the upstream is behind what is stored here, as it may be after a crash or a restart
   * (walreceiver.c does so since the minor releases of August 2026). Nothing is ever overwritten.
   * Gives what the upstream has become; undefined if it is not waited for.
   */
  async #waitUntilAhead(signal: AbortSignal): Promise<UpstreamIdentity | undefined> {
    for (;;) {
      const identity = await this.#answered(() => identifySystem(this.#client));
      const { timeline, walEnd } = identity;
      this.#events.onTimeline(timeline);
      const { received } = this.#store;
      if (timeline !== this.#store.timeline || walEnd >= received) return identity;
      const here = `behind this node at ${formatLsn(received)}`;
      this.#events.onWaiting(`upstream is at ${formatLsn(walEnd)}, ${here}`);
      if (!(await this.#waitPatiently(signal))) return undefined;
    }
  }

  async #nextStep(identity: UpstreamIdentity): Promise<TimelineStep> {
    if (identity.timeline === this.#store.timeline) return { kind: 'stream' };
    // The upstream may have been promoted since it was checked.
    await this.#answered(() => this.#fetchHistories(identity));
    const upstream = await this.#options.histories.history(identity.timeline);
    return nextStep(upstream, this.#store);
  }

  /** Goes on with another timeline; all downstreams are led there by what the store says. */
  async #branch(
    { branch, isFork }: TimelineStep & { kind: 'branch' },
    signal: AbortSignal,
  ): Promise<void> {
    const { history, at } = branch;
    const { timeline, proven } = this.#store;
    await this.#checkHistoryIsKept(history.timeline);
    await this.#store.branch(branch, signal);
    const going = `going on with timeline ${history.timeline} at ${formatLsn(at)}`;
    if (!isFork) return this.#log.log(`timeline ${timeline} has ended: ${going}`);
    this.#log.warning(
      new WalcadeError(
        SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
        `the upstream's history forked off timeline ${timeline} ` +
          `before ${formatLsn(proven)}: ${going}`,
        {
          detail:
            `WAL of timeline ${timeline} from there on is not in the upstream's history. ` +
            'It stays in pg_wal and is served no more.',
          hint: 'Standbys that have replayed it cannot follow: run pg_rewind or make them anew.',
        },
      ),
    );
  }

  /** The next start reads the store by its history. */
  async #checkHistoryIsKept(timeline: TimelineId): Promise<void> {
    if (timeline === 1 || (await this.#options.histories.read(timeline)) !== undefined) return;
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `timeline history file "${historyFileName(timeline)}" is missing`,
      { detail: 'The upstream has not got it, and this node would have to go on with it.' },
    );
  }

  async #stream(overlap: StoredOverlap | undefined, signal: AbortSignal): Promise<StreamEnd> {
    const { feedback, ...options } = this.#options;
    const { timeline, received } = this.#store;
    const start = overlap?.start ?? received;
    const answer = await this.#startStream({ start, timeline });
    if (answer.kind === 'results') return parseTimelineEnd(timeline, answer.results);
    const provenBefore = this.#store.proven;
    const compressed = await CompressedWalReader.open(this.#client);
    this.#events.onStreaming();
    const stream = new UpstreamStream({
      ...options,
      client: this.#client,
      overlap,
      compressed,
      rate: this.#ratePause(),
      feedback,
      onWal: (bytes) => this.#events.onWal(bytes),
      onParameter: (parameter) => this.#takeParameter(parameter),
      onUpstreamPosition: (walEnd, sentAtUs) => {
        // CopyBoth promises nothing, WAL may be gone, corrupt or another's.
        const { proven } = this.#store;
        const isGood = overlap?.next === undefined && (proven !== provenBefore || walEnd <= proven);
        this.#events.onPosition(walEnd, sentAtUs, isGood);
      },
    });
    return stream.run(signal);
  }

  #ratePause(): RatePause {
    const { connection } = this.#client;
    return new RatePause({
      bytesPerSecond: () => this.#options.settings().maxRateBytes,
      readBytes: () => connection.traffic.readBytes,
      askUpstream: async (signal) => (await this.#options.connect(signal)).close(),
      clock: this.#clock,
    });
  }

  /** Starts the stream; the slot is made if it is not there, as with an upstream that is new. */
  async #startStream(position: { start: Lsn; timeline: TimelineId }): Promise<StreamStart> {
    const { slotName: slot } = this.#options.settings();
    const options = { ...position, ...(slot === undefined ? {} : { slot }) };
    const command = formatStartReplication(options);
    try {
      return await this.#answered(() => this.#client.startCopyBoth(command));
    } catch (error) {
      const isMissing = asWalcadeError(error).sqlstate === SQLSTATE.UNDEFINED_OBJECT;
      if (slot === undefined || !isMissing) throw error;
    }
    await this.#answered(() => createUpstreamSlot(this.#client, slot));
    this.#log.log(`replication slot "${slot}" was not there on the upstream and has been made`);
    return this.#answered(() => this.#client.startCopyBoth(command));
  }

  /** The timeline has ended, and what follows it is not known upstream yet, or comes later here. */
  #tellTimelineEnd({ timeline, next, switchPoint }: TimelineEnded): void {
    const end = `timeline ${timeline} has ended at ${formatLsn(switchPoint)}`;
    this.#events.onWaiting(`${end}, timeline ${next} follows it`);
  }

  /** Waits to ask the upstream again; not where an archive can be asked meanwhile. */
  async #waitPatiently(signal: AbortSignal): Promise<boolean> {
    if (this.#options.hasArchive()) return false;
    await this.#clock.sleep(this.#options.settings().retryIntervalMs, signal);
    return true;
  }
}
