/** What a running node does when it is asked to read its configuration files again. */
import { type ReloadOutcome, refusal } from '../admin/control-socket.ts';
import type { Log } from '../base/log.ts';
import { type NodeConfig, PARAMETERS } from '../config/parameters.ts';
import type { WalReceiver } from '../receiver/wal-receiver.ts';
import type { DownstreamTable } from '../sender/downstreams.ts';
import type { ControlFile } from '../store/control-file.ts';
import type { Attachment } from './attachment.ts';
import type { LiveConfig } from './live-config.ts';
import { noteSlot } from './settle-place.ts';
import type { UpstreamConnections } from './upstream-connections.ts';

export interface ReloadOptions {
  live: LiveConfig;
  control: ControlFile;
  downstreams: DownstreamTable;
  receiver: WalReceiver;
  upstream: UpstreamConnections;
  attachment: Attachment | undefined;
  /** Told what log_min_messages says. */
  onLogLevel: (level: NodeConfig['logMinMessages']) => void;
  log: Log;
}

/** The receiver begins anew when one of these has changed. */
const UPSTREAM_PARAMETERS = ['primaryConninfo', 'primarySlotName', 'linkCompression'] as const;

/** With an error in the files everything stays as it was: it is logged, and in the outcome. */
export async function reloadNode(options: ReloadOptions): Promise<ReloadOutcome> {
  const { live, control, downstreams, receiver, upstream, attachment, onLogLevel, log } = options;
  try {
    const { changed, needRestart } = await live.reload();
    for (const name of needRestart) {
      log.log(`parameter "${name}" cannot be changed without restarting the node`);
    }
    onLogLevel(live.config.logMinMessages);
    downstreams.feedbackChanged.notify();
    attachment?.server.reload();
    log.log('configuration files were read again');
    const followed = UPSTREAM_PARAMETERS.find((key) => changed.includes(key));
    if (followed !== undefined) {
      const reason = `parameter "${PARAMETERS[followed].name}" has changed`;
      if (!upstream.isLeading) receiver.restart(reason);
      await noteSlot(control, live.config.primarySlotName);
    }
    return { error: null, needRestart };
  } catch (error) {
    log.error(error);
    return { error: refusal(error), needRestart: [] };
  }
}
