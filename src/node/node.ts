/**
 * The composition root: puts a node together from its directory and runs it.
 *
 *   lock ─▶ walk the store ─▶ listen, receive, serve ─▶ ready when the attached server is ─▶ stop
 *
 * Stop in peace: the attached server and the upstream stream end (of a server that leads its last
 * WAL is received), what was received is made durable and sent to every downstream that is
 * streaming, then the store closes. A failed fsync, or an invariant that does not hold, ends the
 * node at once: the next start walks from what is known to be good.
 */
import { join } from 'node:path';
import { nodeStatus } from '../admin/node-status.ts';
import {
  type ControlServer,
  type ReloadOutcome,
  outcomeOf,
  serveControl,
} from '../admin/control-socket.ts';
import type { Clock } from '../base/clock.ts';
import { type Disk, diskReadableBy } from '../base/disk.ts';
import type { Log } from '../base/log.ts';
import { endTogether, untilAborted } from '../base/task-group.ts';
import { describeConninfo } from '../config/conninfo.ts';
import type { NodeConfig } from '../config/parameters.ts';
import type { Listener, Network } from '../protocol/network.ts';
import type { WalReceiver } from '../receiver/wal-receiver.ts';
import { DownstreamTable } from '../sender/downstreams.ts';
import type { SenderContext } from '../sender/sender-context.ts';
import { ControlFile } from '../store/control-file.ts';
import { HistoryFiles } from '../store/history-files.ts';
import { ReplicationSlots } from '../store/replication-slots.ts';
import { WAL_DIRECTORY, WalStore } from '../store/wal-store.ts';
import { Attachment } from './attachment.ts';
import { UpstreamFollower } from './follow-upstream.ts';
import { FrontDoor } from './front-door.ts';
import { type Listeners, openListeners } from './listeners.ts';
import { LiveConfig } from './live-config.ts';
import { CONTROL_SOCKET, SLOT_DIRECTORY, checkNodeDirectory } from './node-directory.ts';
import { lockNode } from './node-lock.ts';
import { createReceiver } from './node-receiver.ts';
import { Promotions } from './promotions.ts';
import { checkRejoined } from './rejoin-marker.ts';
import { keepRetention, saveSlots } from './retention-keeper.ts';
import { reloadNode } from './reload-node.ts';
import { runServerAndReceiver } from './server-and-receiver.ts';
import { settlePlace } from './settle-place.ts';
import { shownSettings } from './shown-settings.ts';
import { UpstreamConnections } from './upstream-connections.ts';

export interface NodeOptions {
  directory: string;
  disk: Disk;
  network: Network;
  clock: Clock;
  log: Log;
  /** Told once, when connections are served: SQL too, if the node has an attached server. */
  onReady: (listening: string[]) => void;
  /** Called once with what can be done to the node while it runs. */
  onControls?: (controls: NodeControls) => void;
  /** Called with what the attached server writes to its log. */
  onServerLog?: (text: string) => void;
  /** Called with what log_min_messages says, at start and at each reload. */
  onLogLevel?: (level: NodeConfig['logMinMessages']) => void;
}

export interface NodeControls {
  /** Reads the configuration anew. */
  reload: () => Promise<void>;
  /** Ends the attached server without waiting, for a process that is about to end itself. */
  abandon: () => void;
}

/** How long downstreams may take to acknowledge the rest when wal_sender_timeout is off. */
const STOP_TIMEOUT_MS = 60_000;

/** Runs the node in `directory` until `signal` aborts; rejects when it cannot start or go on. */
export async function runNode(options: NodeOptions, signal: AbortSignal): Promise<void> {
  const { directory, clock } = options;
  await checkNodeDirectory(directory);
  const lock = await lockNode(directory, clock);
  try {
    await checkRejoined(directory);
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
  readonly #attachment: Attachment | undefined;
  readonly #upstream: UpstreamConnections;
  readonly #promotions: Promotions;
  readonly #startedMs: number;
  readonly #live: LiveConfig;
  readonly #follower: UpstreamFollower;
  #isStopping = false;

  private constructor(
    options: NodeOptions,
    parts: {
      live: LiveConfig;
      control: ControlFile;
      store: WalStore;
      slots: ReplicationSlots;
      histories: HistoryFiles;
      attachment: Attachment | undefined;
    },
  ) {
    const { clock, log } = options;
    const { store, slots, control, histories, attachment } = parts;
    this.#attachment = attachment;
    this.#options = options;
    this.#live = parts.live;
    this.#control = control;
    this.#store = store;
    this.#slots = slots;
    this.#downstreams = new DownstreamTable(slots);
    const upstream = new UpstreamConnections({
      network: options.network,
      clock,
      log,
      config: () => this.#config,
      systemIdentifier: control.data.systemIdentifier,
      attachment,
    });
    this.#upstream = upstream;
    this.#startedMs = clock.nowMs();
    this.#receiver = createReceiver({
      directory: options.directory,
      disk: options.disk,
      config: () => this.#config,
      upstream,
      store,
      control,
      histories,
      downstreams: this.#downstreams,
      clock,
      log,
    });
    this.#promotions = new Promotions({
      attachment,
      store,
      receiver: this.#receiver,
      downstreams: this.#downstreams,
      upstream,
      triggerFile: () => this.#config.promoteTriggerFile,
      directory: options.directory,
      clock,
      log,
    });
    this.#follower = new UpstreamFollower({
      directory: options.directory,
      connect: (conninfo, signal) => upstream.connectTo(conninfo, signal),
      store,
      histories,
      control,
      receiver: this.#receiver,
      serverRole: () => attachment?.server.status.role,
      config: () => this.#config,
      reload: () => this.#reload(),
      clock,
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
      shownSettings: () =>
        shownSettings(this.#config, control.data, {
          upstreamPath: this.#receiver.status.upstreamPath,
          isInRecovery: !upstream.isLeading,
        }),
      upstreamPath: {
        current: () => this.#receiver.status.upstreamPath,
        changed: this.#receiver.pathChanged,
      },
      attachedRedo: () => attachment?.redo,
      isInRecovery: () => !upstream.isLeading,
      hasUpstream: () => upstream.isAny,
      connectUpstream: (signal) => upstream.connectForOlderWal(signal),
      connectForBackup: (signal) => upstream.connectForBackup(signal),
      clock,
    };
    this.#door = new FrontDoor({
      context: this.#context,
      settings: () => ({
        authenticationTimeoutMs: this.#config.authenticationTimeoutMs,
        maxWalSenders: this.#config.maxWalSenders,
        logConnections: this.#config.logConnections,
        hbaRules: this.#live.hbaRules,
      }),
      clock,
      log,
      ...(attachment === undefined ? {} : { server: attachment }),
    });
  }

  static async open(options: NodeOptions): Promise<Node> {
    const { directory, network, clock, log } = options;
    const control = await ControlFile.open(options.disk, directory);
    await settlePlace({ disk: options.disk, log, directory, control });
    const live = await LiveConfig.load(directory);
    const { config } = live;
    options.onLogLevel?.(config.logMinMessages);
    const attachment = config.dataDirectory
      ? await Attachment.open({
          directory,
          config,
          control: control.data,
          network,
          clock,
          log,
          onLogLines: options.onServerLog ?? (() => {}),
        })
      : undefined;
    const slots = await ReplicationSlots.open({
      disk: options.disk,
      directory: join(directory, SLOT_DIRECTORY),
      max: () => config.maxReplicationSlots,
    });
    const user = attachment?.user;
    const disk = user === undefined ? options.disk : diskReadableBy(options.disk, user.gid);
    const histories = new HistoryFiles(disk, join(directory, WAL_DIRECTORY));
    const store = await WalStore.open({ disk, clock, log, directory, control });
    return new Node(options, { live, control, store, slots, histories, attachment });
  }

  get #config(): NodeConfig {
    return this.#live.config;
  }

  get port(): number {
    return this.#config.port;
  }

  /** Listens, tells that the node is ready, and runs it until `signal` aborts. */
  async run(signal: AbortSignal, onReady: () => Promise<void>): Promise<void> {
    const { network, directory, onControls } = this.#options;
    const listeners = await openListeners(network, this.#config, (socket, peer) =>
      this.#door.accept(socket, peer),
    );
    let [control, receiverDoor]: [ControlServer?, Listener?] = [];
    try {
      control = await serveControl(join(directory, CONTROL_SOCKET), {
        status: () => this.#status(listeners.addresses),
        reload: () => this.#reload(),
        promote: (request) => outcomeOf(this.#promotions.promote(request)),
        follow: (conninfo, asked) => this.#follower.follow(conninfo, asked),
      });
      receiverDoor = await this.#attachment?.listen((socket) => this.#door.acceptAttached(socket));
      onControls?.({
        reload: async () => void (await this.#reload()),
        abandon: () => this.#attachment?.server.abandon(),
      });
      await this.#runParts(signal, { listeners, onReady });
    } finally {
      this.#door.close();
      listeners.close();
      receiverDoor?.close();
      await control?.close();
      await this.#control.close();
    }
  }

  /** The store outlives the others: what they leave is written before it closes. */
  async #runParts(signal: AbortSignal, start: Start): Promise<void> {
    await endTogether(new AbortController().signal, [
      (group) => this.#store.run(group),
      (group) => this.#work(signal, group, start),
    ]);
  }

  /** Tells that the node serves as soon as all of it does. */
  async #announce(signal: AbortSignal, { listeners, onReady }: Start): Promise<void> {
    const { log } = this.#options;
    log.log(`listening on ${listeners.addresses.join(', ')}`);
    await this.#attachment?.whenReady(signal);
    await onReady();
    this.#options.onReady(listeners.addresses);
    await untilAborted(signal);
  }

  /** Receives and serves until asked to stop, then stops in peace; or ends with the store. */
  async #work(stop: AbortSignal, group: AbortSignal, start: Start): Promise<void> {
    const { clock, log } = this.#options;
    const attachment = this.#attachment;
    const parts = { server: attachment, receiver: this.#receiver, upstream: this.#upstream };
    const ending = AbortSignal.any([stop, group]);
    const retention = {
      store: this.#store,
      slots: this.#slots,
      backupStarts: this.#context.backupStarts,
      keepBytes: () => this.#config.walKeepSizeBytes,
      attachedRedo: async () => attachment?.readRedo(),
      clock,
      log,
    };
    const refuseMore = (): void => {
      this.#isStopping = true;
      start.listeners.close();
      if (stop.aborted) log.log('received shutdown request');
    };
    ending.addEventListener('abort', refuseMore, { once: true });
    // What the disk refused to the store it may refuse to the server: that is not waited for.
    group.addEventListener('abort', () => attachment?.server.abandon(), { once: true });
    try {
      await endTogether(ending, [
        (signal) => runServerAndReceiver(parts, signal),
        (signal) => keepRetention(retention, signal),
        (signal) => this.#announce(signal, start),
        (signal) => this.#promotions.run(signal),
      ]);
    } catch (error) {
      if (error !== ending.reason) throw error;
    }
    if (group.aborted) return;
    await this.#stop(group);
    await saveSlots(retention);
  }

  /** The order of a stop in peace, after the receiver has ended; the store may fail meanwhile. */
  async #stop(group: AbortSignal): Promise<void> {
    const { clock, log } = this.#options;
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

  #reload(): Promise<ReloadOutcome> {
    return reloadNode({
      live: this.#live,
      control: this.#control,
      downstreams: this.#downstreams,
      receiver: this.#receiver,
      upstream: this.#upstream,
      attachment: this.#attachment,
      onLogLevel: (level) => this.#options.onLogLevel?.(level),
      log: this.#options.log,
    });
  }

  #status(listen: string[]) {
    return nodeStatus({
      name: this.#config.clusterName,
      conninfo: describeConninfo(this.#config.primaryConninfo),
      isLeading: this.#upstream.isLeading,
      slot: this.#upstream.slotName,
      listen,
      startedMs: this.#startedMs,
      isStopping: this.#isStopping,
      control: this.#control,
      store: this.#store,
      receiver: this.#receiver,
      downstreams: this.#downstreams,
      slots: this.#slots,
      attachment: this.#attachment,
      clock: this.#options.clock,
    });
  }
}

interface Start {
  listeners: Listeners;
  onReady: () => Promise<void>;
}
