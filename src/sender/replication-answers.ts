/**
 * The replication commands that are answered by a result set: what they do, and the messages of
 * the answer, as PostgreSQL of the upstream's version sends them (walsender.c).
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  type ColumnDescription,
  TYPE_OID,
  encodeCommandComplete,
  encodeDataRow,
  encodeRowDescription,
} from '../protocol/backend-messages.ts';
import type { CreateReplicationSlot } from '../protocol/replication-command.ts';
import { historyFileName, timelineOf } from '../wal/history.ts';
import { INVALID_LSN, type Lsn, type TimelineId, formatLsn, minLsn } from '../wal/lsn.ts';
import { type SenderContext, serverVersionNum } from './sender-context.ts';

type Value = string | Buffer | null;

function text(name: string): ColumnDescription {
  return { name, typeOid: TYPE_OID.TEXT };
}

function int8(name: string): ColumnDescription {
  return { name, typeOid: TYPE_OID.INT8, typeBytes: 8 };
}

function answer(tag: string, columns: ColumnDescription[], rows: Value[][]): Buffer[] {
  return [encodeRowDescription(columns), ...rows.map(encodeDataRow), encodeCommandComplete(tag)];
}

export function identifySystem({ store, systemIdentifier, ...context }: SenderContext): Buffer[] {
  const version = serverVersionNum({ store, systemIdentifier, ...context });
  const timeline =
    version < 160_000
      ? { name: 'timeline', typeOid: TYPE_OID.INT4, typeBytes: 4 }
      : int8('timeline');
  return answer(
    'IDENTIFY_SYSTEM',
    [text('systemid'), timeline, text('xlogpos'), text('dbname')],
    [[systemIdentifier.toString(), String(store.timeline), formatLsn(store.served.value), null]],
  );
}

/** SHOW of one setting, or of all. Throws 42704 for a name that nobody knows. */
export function show(context: SenderContext, name: string): Buffer[] {
  const settings = context.shownSettings();
  if (name === 'all') {
    const rows = settings.map((s) => [s.name, s.value, s.description]);
    return answer('SHOW', [text('name'), text('setting'), text('description')], rows);
  }
  const setting = settings.find((s) => s.name.toLowerCase() === name);
  if (setting === undefined) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_OBJECT,
      `unrecognized configuration parameter "${name}"`,
    );
  }
  return answer('SHOW', [text(setting.name)], [[setting.value]]);
}

/** What comes before TIMELINE_HISTORY's row, and before its error too (SendTimeLineHistory()). */
export function describeTimelineHistory(context: SenderContext): Buffer {
  const version = serverVersionNum(context);
  const typeOid = version < 140_000 ? TYPE_OID.BYTEA : TYPE_OID.TEXT;
  const typeModifier = version < 160_000 ? 0 : -1;
  return encodeRowDescription([
    { ...text('filename'), typeModifier },
    { name: 'content', typeOid, typeModifier },
  ]);
}

export async function timelineHistory(
  context: SenderContext,
  timeline: TimelineId,
): Promise<Buffer[]> {
  const content = await context.histories.read(timeline);
  const name = historyFileName(timeline);
  if (content === undefined) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `could not open file "pg_wal/${name}": No such file or directory`,
    );
  }
  return [encodeDataRow([name, content]), encodeCommandComplete('TIMELINE_HISTORY')];
}

/** Makes a slot for the session `pid`. */
export async function createSlot(
  context: SenderContext,
  { name, temporary, reserveWal }: CreateReplicationSlot,
  pid: number,
): Promise<Buffer[]> {
  const restartLsn = reserveWal ? reservedStart(context) : undefined;
  await context.slots.create(name, {
    temporary,
    restartLsn,
    activePid: temporary ? pid : undefined,
  });
  return answer(
    'CREATE_REPLICATION_SLOT',
    [text('slot_name'), text('consistent_point'), text('snapshot_name'), text('output_plugin')],
    [[name, formatLsn(INVALID_LSN), null, null]],
  );
}

/**
 * Where a slot with RESERVE_WAL begins: a base backup that is taken next, or one that is passing
 * through, has to find its WAL from its start on.
 */
function reservedStart({ store, backupStarts, attachedRedo }: SenderContext): Lsn {
  let oldest = store.checkpointRedo ?? store.oldest;
  // A backup of the attached server begins there.
  oldest = minLsn(oldest, attachedRedo() ?? oldest);
  for (const { start } of backupStarts) oldest = minLsn(oldest, start);
  return oldest;
}

export function readSlot(context: SenderContext, name: string): Buffer[] {
  const { slots, store } = context;
  const slot = slots.find(name);
  let row: Value[] = [null, null, null];
  if (slot?.restartLsn !== undefined) {
    const timeline = timelineOf(store.history, slot.restartLsn);
    row = ['physical', formatLsn(slot.restartLsn), String(timeline)];
  } else if (slot !== undefined) {
    row = ['physical', null, null];
  }
  const columns = [text('slot_type'), text('restart_lsn'), int8('restart_tli')];
  return answer('READ_REPLICATION_SLOT', columns, [row]);
}
