/**
 * The composition root: puts a node together from its directory and runs it.
 *
 *   lock ─▶ walk the store ─▶ listen ─▶ ready ─▶ receive and serve ─▶ stop
 *
 * Stop in peace: the upstream stream ends, what was received is made durable and sent to every
 * downstream that is streaming, then the store closes. A failed fsync, or an invariant that
 * does not hold, ends the node at once: the next start walks from what is known to be good.
 */
import { join } from 'node:path';
import { nodeStatus } from '../admin/node-status.ts';
import { type ControlServer, type ReloadOutcome, serveControl } from '../admin/control-socket.ts';
import type { Clock } from '../base/clock.ts';
import type { Disk } from '../base/disk.ts';
import type { Log } from '../base/log.ts';
import { asWalcadeError } from '../base/errors.ts';
import { endTogether } from '../base/task-group.ts';
import { describeConninfo, parseConninfo } from '../config/conninfo.ts';
import { loadConfig } from '../config/conf-file.ts';
import { loadHba } from '../config/hba.ts';
import { PARAMETERS, type ParameterKey, showConfig } from '../config/parameters.ts';
import type { ReplicationClient } from '../protocol/client.ts';
import type { Network } from '../protocol/network.ts';
import { checkSystemIdentifier, identifySystem } from '../receiver/upstream-identity.ts';
import { WalReceiver } from '../receiver/wal-receiver.ts';
import { DownstreamTable } from '../sender/downstreams.ts';
import type { SenderContext, ShownSetting } from '../sender/sender-context.ts';
import { ControlFile } from '../store/control-file.ts';
import { HistoryFiles } from '../store/history-files.ts';
import { ReplicationSlots } from '../store/replication-slots.ts';
import { WAL_DIRECTORY, WalStore } from '../store/wal-store.ts';
import { FrontDoor } from './front-door.ts';
import { type Listeners, openListeners } from './listeners.ts';
import { CONTROL_SOCKET, SLOT_DIRECTORY, checkNodeDirectory, lockNode } from './node-directory.ts';
import { keepRetention, saveSlots } from './retention-keeper.ts';
import { connectUpstream } from './upstream-connector.ts';

export interface NodeOptions {
  directory: string;
  disk: Disk;
  network: Network;
  clock: Clock;
  log: Log;
  /** Told once, when connections are served. */
  onReady: (listening: string[]) => void;
  /** Called with a function that reads the configuration anew. */
  onReloadable?: (reload: () => Promise<void>) => void;
  /** Called with what log_min_messages says, at start and at each reload. */
  onLogLevel?: (level: NodeConfig['logMinMessages']) => void;
}

type NodeConfig = Awaited<ReturnType<typeof loadConfig>>;

/** The receiver begins anew when one of these has changed. */
const UPSTREAM_PARAMETERS = ['primaryConninfo', 'primarySlotName'] as const;

/** How long downstreams may take to acknowledge the rest when wal_sender_timeout is off. */
const STOP_TIMEOUT_MS = 60_000;

/** Runs the node in `directory` until `signal` aborts; rejects when it cannot start or go on. */
export async function runNode(options: NodeOptions, signal: AbortSignal): Promise<void> {
  const { directory, clock } = options;
  await checkNodeDirectory(directory);
  const lock = await lockNode(directory, clock);
  try {
    const node = await Node.open(options);
    await lock.describe('starting', node.port);
    await node.run(signal, () => lock.describe('ready', node.port));
  } finally {
    await lock.release();
  }
}

class Node {
  readonly #options: NodeOptions;
  readonly #control: ControlFile;
  readonly #store: WalStore;
  readonly #slots: ReplicationSlots;
  readonly #downstreams: DownstreamTable;
  readonly #receiver: WalReceiver;
  readonly #context: SenderContext;
  readonly #door: FrontDoor;
  readonly #startedMs: number;
  #config: NodeConfig;
  #hbaRules: Awaited<ReturnType<typeof loadHba>>;
  #isStopping = false;

  private constructor(
    options: NodeOptions,
    parts: {
      config: NodeConfig;
      hbaRules: Awaited<ReturnType<typeof loadHba>>;
      control: ControlFile;
      store: WalStore;
      slots: ReplicationSlots;
      histories: HistoryFiles;
    },
  ) {
    const { clock, log } = options;
    const { store, slots, control, histories } = parts;
    this.#options = options;
    this.#config = parts.config;
    this.#hbaRules = parts.hbaRules;
    this.#control = control;
    this.#store = store;
    this.#slots = slots;
    this.#downstreams = new DownstreamTable(slots);
    this.#startedMs = clock.nowMs();
    this.#receiver = new WalReceiver({
      connect: (signal) => this.#connectUpstream(signal),
      store,
      control,
      histories,
      settings: () => ({
        timeoutMs: this.#config.walReceiverTimeoutMs,
        statusIntervalMs: this.#config.walReceiverStatusIntervalMs,
        retryIntervalMs: this.#config.walRetrieveRetryIntervalMs,
        slotName: this.#config.primarySlotName || undefined,
      }),
      feedback: () =>
        this.#config.hotStandbyFeedback
          ? this.#downstreams.feedback()
          : { xmin: 0n, catalogXmin: 0n },
      apply: () => this.#downstreams.replayed,
      applyChanged: this.#downstreams.replayedChanged,
      feedbackChanged: this.#downstreams.feedbackChanged,
      clock,
      log: log.child('WAL receiver'),
    });
    this.#context = {
      store,
      histories,
      slots,
      downstreams: this.#downstreams,
      backupStarts: new Set(),
      systemIdentifier: control.data.systemIdentifier,
      settings: () => ({
        walSenderTimeoutMs: this.#config.walSenderTimeoutMs,
        walReceiverTimeoutMs: this.#config.walReceiverTimeoutMs,
        logReplicationCommands: this.#config.logReplicationCommands,
      }),
      upstreamSettings: () => control.data.upstreamSettings,
      shownSettings: () => this.#shownSettings(),
      connectUpstream: (signal) => this.#connectSameCluster(signal),
      clock,
    };
    this.#door = new FrontDoor({
      context: this.#context,
      settings: () => ({
        authenticationTimeoutMs: this.#config.authenticationTimeoutMs,
        maxWalSenders: this.#config.maxWalSenders,
        logConnections: this.#config.logConnections,
        hbaRules: this.#hbaRules,
      }),
      clock,
      log,
    });
  }

  static async open(options: NodeOptions): Promise<Node> {
    const { directory, disk, clock, log } = options;
    const config = await loadConfig(directory);
    options.onLogLevel?.(config.logMinMessages);
    const hbaRules = await loadHba(directory);
    const control = await ControlFile.open(disk, directory);
    const slots = await ReplicationSlots.open({
      disk,
      directory: join(directory, SLOT_DIRECTORY),
      max: () => config.maxReplicationSlots,
    });
    const histories = new HistoryFiles(disk, join(directory, WAL_DIRECTORY));
    const store = await WalStore.open({ disk, clock, log, directory, control });
    return new Node(options, { config, hbaRules, control, store, slots, histories });
  }

  get port(): number {
    return this.#config.port;
  }

  /** Listens, tells that the node is ready, and runs it until `signal` aborts. */
  async run(signal: AbortSignal, onReady: () => Promise<void>): Promise<void> {
    const { network, directory, log, onReloadable } = this.#options;
    const listeners = await openListeners(network, this.#config, (socket, peer) =>
      this.#door.accept(socket, peer),
    );
    let control: ControlServer | undefined;
    try {
      control = await serveControl(join(directory, CONTROL_SOCKET), {
        status: () => this.#status(listeners.addresses),
        reload: () => this.#reload(),
      });
      onReloadable?.(async () => void (await this.#reload()));
      await onReady();
      log.log(`listening on ${listeners.addresses.join(', ')}`);
      this.#options.onReady(listeners.addresses);
      await this.#runParts(signal, listeners);
    } finally {
      this.#door.close();
      listeners.close();
      await control?.close();
      await this.#control.close();
    }
  }

  /** The store outlives the others: what they leave is written before it closes. */
  async #runParts(signal: AbortSignal, listeners: Listeners): Promise<void> {
    await endTogether(new AbortController().signal, [
      (group) => this.#store.run(group),
      (group) => this.#work(signal, group, listeners),
    ]);
  }

  /** Receives and serves until asked to stop, then stops in peace; or ends with the store. */
  async #work(stop: AbortSignal, group: AbortSignal, listeners: Listeners): Promise<void> {
    const { clock, log } = this.#options;
    const { backupStarts } = this.#context;
    const ending = AbortSignal.any([stop, group]);
    const retention = {
      store: this.#store,
      slots: this.#slots,
      backupStarts,
      keepBytes: () => this.#config.walKeepSizeBytes,
      clock,
      log,
    };
    try {
      await endTogether(ending, [
        (signal) => this.#receiver.run(signal),
        (signal) => keepRetention(retention, signal),
      ]);
    } catch (error) {
      if (error !== ending.reason) throw error;
    }
    if (group.aborted) return;
    await this.#stop(group, listeners);
    await saveSlots(retention);
  }

  /** The order of a stop in peace, after the receiver has ended; the store may fail meanwhile. */
  async #stop(group: AbortSignal, listeners: Listeners): Promise<void> {
    const { clock, log } = this.#options;
    this.#isStopping = true;
    log.log('received shutdown request');
    listeners.close();
    const limit = new AbortController();
    const timeoutMs = this.#config.walSenderTimeoutMs || STOP_TIMEOUT_MS;
    const giveUp = (): void => {
      limit.abort();
      this.#door.close();
    };
    const timer = clock.setTimer(timeoutMs, () => {
      log.log('closing the connections of downstreams that have not acknowledged all WAL');
      giveUp();
    });
    group.addEventListener('abort', giveUp, { once: true });
    await this.#store.drained(limit.signal).catch(() => {});
    await this.#door.stop();
    timer.cancel();
  }

  async #reload(): Promise<ReloadOutcome> {
    const { directory, log } = this.#options;
    try {
      const config = await loadConfig(directory);
      const hbaRules = await loadHba(directory);
      const needRestart = this.#changedButForRestart(config);
      const followed = UPSTREAM_PARAMETERS.find((key) => config[key] !== this.#config[key]);
      for (const name of needRestart) {
        log.log(`parameter "${name}" cannot be changed without restarting the node`);
      }
      this.#config = { ...config, ...this.#restartOnly() };
      this.#hbaRules = hbaRules;
      this.#options.onLogLevel?.(config.logMinMessages);
      this.#downstreams.feedbackChanged.notify();
      log.log('configuration files were read again');
      if (followed !== undefined) {
        this.#receiver.restart(`parameter "${PARAMETERS[followed].name}" has changed`);
      }
      return { error: null, needRestart };
    } catch (error) {
      log.error(error);
      const { message, detail, hint } = asWalcadeError(error);
      return { error: { message, detail, hint }, needRestart: [] };
    }
  }

  #restartOnly(): Partial<NodeConfig> {
    const kept = Object.entries(this.#config).filter(([key]) => needsRestart(key));
    return Object.fromEntries(kept);
  }

  #changedButForRestart(config: NodeConfig): string[] {
    return (Object.keys(PARAMETERS) as ParameterKey[])
      .filter(needsRestart)
      .map((key) => PARAMETERS[key].name)
      .filter((name) => showConfig(config, name) !== showConfig(this.#config, name));
  }

  #connectUpstream(signal: AbortSignal) {
    const { network, clock, log } = this.#options;
    const { primaryConninfo: text, clusterName: applicationName } = this.#config;
    return connectUpstream({ network, clock, log }, { text, applicationName }, signal);
  }

  /**
   * A connection for what is passed on, to the cluster whose WAL is here. (PostgreSQL 13 starts no
   * stream before it was asked to identify itself.)
   */
  async #connectSameCluster(signal: AbortSignal): Promise<ReplicationClient> {
    const client = await this.#connectUpstream(signal);
    const { systemIdentifier } = this.#control.data;
    try {
      checkSystemIdentifier(await identifySystem(client), systemIdentifier);
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  /** As SHOW answers them to whoever may connect: without the secrets of primary_conninfo. */
  #shownSettings(): ShownSetting[] {
    const config = {
      ...this.#config,
      primaryConninfo: describeConninfo(parseConninfo(this.#config.primaryConninfo)),
    };
    const own = Object.values(PARAMETERS).map(({ name, description }) => ({
      name,
      value: showConfig(config, name),
      description,
    }));
    const names = new Set<string>(own.map(({ name }) => name));
    const mirrored = Object.entries(this.#control.data.upstreamSettings)
      .filter(([name]) => !names.has(name))
      .map(([name, value]) => ({ name, value, description: 'As the upstream has it.' }));
    const { nodeId } = this.#control.data;
    const path = this.#receiver.status.upstreamPath.join(',');
    return [
      ...own,
      ...mirrored,
      { name: 'walcade.node_id', value: nodeId, description: 'Identity of this node.' },
      { name: 'walcade.upstream_path', value: path, description: 'The nodes above this one.' },
    ];
  }

  #status(listen: string[]) {
    return nodeStatus({
      name: this.#config.clusterName,
      conninfo: describeConninfo(parseConninfo(this.#config.primaryConninfo)),
      slot: this.#config.primarySlotName || undefined,
      listen,
      startedMs: this.#startedMs,
      isStopping: this.#isStopping,
      control: this.#control,
      store: this.#store,
      receiver: this.#receiver,
      downstreams: this.#downstreams,
      slots: this.#slots,
      clock: this.#options.clock,
    });
  }
}

function needsRestart(key: string): boolean {
  return PARAMETERS[key as ParameterKey].context === 'restart';
}
