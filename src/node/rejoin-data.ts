/**
 * What a stopped server's data directory is, towards an upstream: on which history, up to where,
 * and from where on its server would need WAL.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type ControlData, readControlData } from '../postgres/control-data.ts';
import { type BackupLabel, readBackupLabel, readMajor } from '../postgres/data-directory.ts';
import { readRecoveryStart } from '../postgres/recovery-start.ts';
import { readServerRole } from '../postgres/server-role.ts';
import { type TimelineHistory, ancestorHistory, isInHistory, rootHistory } from '../wal/history.ts';
import { type Lsn, type TimelineId, advance } from '../wal/lsn.ts';
import { join } from 'node:path';
import { DataWal, readHistoryIn } from './data-wal.ts';
import { neededWal } from './needed-wal.ts';
import type { OwnData } from './rejoin-plan.ts';
import type { StoppedNode } from './stopped-node.ts';

export class StoppedData {
  readonly own: OwnData;
  /** Where its server's recovery would begin. */
  readonly redo: Lsn;
  readonly control: ControlData;
  readonly wal: DataWal;

  private constructor(parts: { own: OwnData; redo: Lsn; control: ControlData; wal: DataWal }) {
    this.own = parts.own;
    this.redo = parts.redo;
    this.control = parts.control;
    this.wal = parts.wal;
  }

  /**
   * Reads the data directory of `node`. What is not known of its history here may be in that of the
   * upstream. Throws 55000 if it is of another cluster or major version than the node's WAL.
   */
  static async read(node: StoppedNode, upstream: TimelineHistory): Promise<StoppedData> {
    const { dataDirectory, walDirectory } = node;
    const control = await readControlData(dataDirectory);
    await checkOfNode(node, control);
    const label = await readBackupLabel(dataDirectory);
    const role = await readServerRole(dataDirectory);
    const folders = [join(dataDirectory, 'pg_wal'), walDirectory];
    const timeline = timelineOfData(control, label);
    const history = (await readHistoryIn(folders, timeline)) ?? historyFrom(upstream, timeline);
    const { segmentBytes, systemIdentifier } = control;
    const wal = new DataWal({ folders, history, segmentBytes, systemIdentifier });
    const isPrimary = role === 'primary' && label === undefined;
    const end = isPrimary ? await wal.end(control) : endOfStandby(control, label);
    const redo = await readRecoveryStart(dataDirectory);
    return new StoppedData({ own: { history, end, isPrimary }, redo, control, wal });
  }
}

/** The newest timeline that the files may have something of. */
function timelineOfData(
  { timeline, minRecoveryTimeline = timeline }: ControlData,
  label: BackupLabel | undefined,
): TimelineId {
  const timelines = [timeline, minRecoveryTimeline, label?.timeline ?? timeline];
  return Math.max(...timelines) as TimelineId;
}

function historyFrom(upstream: TimelineHistory, timeline: TimelineId): TimelineHistory {
  return isInHistory(upstream, timeline)
    ? ancestorHistory(upstream, timeline)
    : rootHistory(timeline);
}

/** It has replayed what it needs to be consistent; more it replays only as far as it is told to. */
function endOfStandby(control: ControlData, label: BackupLabel | undefined): Lsn {
  const [first, ...rest] = neededWal(control, label).map(({ position }) => advance(position, 1));
  return rest.reduce((a, b) => (a > b ? a : b), first as Lsn);
}

async function checkOfNode(node: StoppedNode, { systemIdentifier }: ControlData): Promise<void> {
  const major = await readMajor(node.dataDirectory);
  if (systemIdentifier === node.control.systemIdentifier && major === node.major) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory "${node.dataDirectory}" is not of the cluster of this node`,
    {
      detail:
        `It is of system ${systemIdentifier}, PostgreSQL ${major}; the node's WAL is of system ` +
        `${node.control.systemIdentifier}, PostgreSQL ${node.major}.`,
      hint: 'Set "data_directory" to the one that belongs to this node.',
    },
  );
}
