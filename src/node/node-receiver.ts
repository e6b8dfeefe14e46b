/** The WAL receiver of a node, with the upstream and the archive that are in force. */
import { RestoreCommand } from '../archive/restore-command.ts';
import { WalArchive } from '../archive/wal-archive.ts';
import type { Clock } from '../base/clock.ts';
import type { Disk } from '../base/disk.ts';
import type { Log } from '../base/log.ts';
import type { NodeConfig } from '../config/parameters.ts';
import { WalReceiver } from '../receiver/wal-receiver.ts';
import type { DownstreamTable } from '../sender/downstreams.ts';
import type { ControlFile } from '../store/control-file.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import type { WalStore } from '../store/wal-store.ts';
import { INVALID_LSN } from '../wal/lsn.ts';
import type { UpstreamConnections } from './upstream-connections.ts';

export interface NodeReceiverOptions {
  directory: string;
  disk: Disk;
  config: () => NodeConfig;
  upstream: UpstreamConnections;
  store: WalStore;
  control: ControlFile;
  histories: HistoryFiles;
  downstreams: DownstreamTable;
  clock: Clock;
  log: Log;
}

export function createReceiver(options: NodeReceiverOptions): WalReceiver {
  const { directory, disk, config, upstream, store, control, histories, clock } = options;
  const { downstreams } = options;
  const log = options.log.child('WAL receiver');
  const archive = new WalArchive({
    archive: new RestoreCommand({
      disk,
      clock,
      directory,
      command: () => config().restoreCommand,
    }),
    store,
    histories,
    systemIdentifier: control.data.systemIdentifier,
    log,
  });
  return new WalReceiver({
    hasUpstream: () => upstream.isAny,
    connect: (signal) => upstream.connect(signal),
    hasArchive: () => upstream.hasArchive,
    mayBegin: (signal) => upstream.hold.pass(signal),
    openArchive: () => (upstream.hasArchive ? archive : undefined),
    store,
    control,
    histories,
    settings: () => ({
      timeoutMs: config().walReceiverTimeoutMs,
      statusIntervalMs: config().walReceiverStatusIntervalMs,
      retryIntervalMs: config().walRetrieveRetryIntervalMs,
      slotName: upstream.slotName,
      // The own server is not far away.
      maxRateBytes: upstream.isLeading ? 0 : config().maxRateBytes,
    }),
    feedback: () =>
      config().hotStandbyFeedback ? downstreams.feedback() : { xmin: 0n, catalogXmin: 0n },
    // A server that leads has nothing to replay.
    apply: () => (upstream.isLeading ? INVALID_LSN : downstreams.replayed),
    applyChanged: downstreams.replayedChanged,
    feedbackChanged: downstreams.feedbackChanged,
    clock,
    log,
  });
}
