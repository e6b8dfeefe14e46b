/**
 * BASE_BACKUP as we send it, and the rows that it is answered with: in the words of PostgreSQL 13
 * and 14, and in the options of 15 and later (manual, "Streaming Replication Protocol").
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { type Lsn, type TimelineId, parseLsn, timelineId } from '../wal/lsn.ts';

/** The first version that takes options in parentheses and sends one copy with type bytes. */
const OPTIONS_SINCE = 150_000;

/** How a server sends a backup: a copy for each archive, or one with type bytes for all. */
export type BackupForm = 'copy-each' | 'typed-copy';

export function backupForm(serverVersionNum: number): BackupForm {
  return serverVersionNum < OPTIONS_SINCE ? 'copy-each' : 'typed-copy';
}

/**
 * The command for a backup without WAL and without a tablespace map, at once, with a manifest. The
 * sizes of the tablespaces are asked for with it.
 */
export function formatBackupCommand(label: string, form: BackupForm): string {
  const quoted = `'${label.replaceAll("'", "''")}'`;
  return form === 'copy-each'
    ? `BASE_BACKUP LABEL ${quoted} PROGRESS FAST NOWAIT MANIFEST 'yes'`
    : `BASE_BACKUP (LABEL ${quoted}, PROGRESS, CHECKPOINT 'fast', WAIT false, MANIFEST 'yes')`;
}

export type ResultRows = readonly (readonly (Buffer | null)[])[];

/** Where a backup begins or ends. Throws 08P01 unless it is one row that says so. */
export function parseBackupPosition(rows: ResultRows): { lsn: Lsn; timeline: TimelineId } {
  const [position, timeline] = rows[0] ?? [];
  const isOne = rows.length === 1 && /^\d{1,10}$/.test(timeline?.toString() ?? '');
  if (!isOne) throw unexpectedRows(rows);
  return {
    lsn: parseLsn(position?.toString() ?? ''),
    timeline: timelineId(Number(timeline?.toString())),
  };
}

/** A tablespace of the sending server. */
export interface SourceTablespace {
  readonly oid: string;
  /** Where it is there: an absolute path. */
  readonly location: string;
  /** How large its archive will be, as the server reckons. */
  readonly bytes: number;
}

/** What a backup is made of, in the order in which it comes; the data directory is the last. */
export interface BackupContents {
  readonly tablespaces: readonly SourceTablespace[];
  readonly dataDirectoryBytes: number;
}

/**
 * The list of tablespaces that comes before a backup. Throws 08P01 for what is none, and 0A000 for
 * tablespaces inside the data directory, which PostgreSQL has for its own tests only.
 */
export function parseBackupContents(rows: ResultRows): BackupContents {
  const tablespaces = rows.slice(0, -1).map(([oid, location, size]) => {
    const tablespace = {
      oid: oid?.toString() ?? '',
      location: location?.toString() ?? '',
      bytes: kilobytes(size),
    };
    if (!/^[1-9]\d{0,9}$/.test(tablespace.oid) || tablespace.location === '') {
      throw unexpectedRows(rows);
    }
    refuseInPlace(tablespace);
    return tablespace;
  });
  const [oid, , size] = rows.at(-1) ?? [];
  if (oid !== null) throw unexpectedRows(rows);
  if (new Set(tablespaces.map((each) => each.oid)).size < tablespaces.length) {
    throw unexpectedRows(rows);
  }
  const dataDirectoryBytes = kilobytes(size);
  if (Number.isNaN(tablespaces.reduce((sum, { bytes }) => sum + bytes, dataDirectoryBytes))) {
    throw unexpectedRows(rows);
  }
  return { tablespaces, dataDirectoryBytes };
}

function kilobytes(size: Buffer | null | undefined): number {
  const text = size?.toString() ?? '';
  return /^\d{1,12}$/.test(text) ? Number(text) * 1024 : Number.NaN;
}

/** allow_in_place_tablespaces: their location is a relative path. */
function refuseInPlace({ oid, location }: SourceTablespace): void {
  if (location.startsWith('/')) return;
  throw new WalcadeError(
    SQLSTATE.FEATURE_NOT_SUPPORTED,
    `tablespace ${oid} at "${location}" is inside the data directory`,
    { detail: 'A base backup takes tablespaces of their own directories only.' },
  );
}

function unexpectedRows(rows: ResultRows): WalcadeError {
  const shown = rows.map((row) => row.map((value) => value?.toString() ?? 'NULL').join(', '));
  return new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    'invalid response from server to BASE_BACKUP',
    { detail: `Got ${rows.length} rows: ${shown.join('; ').slice(0, 200)}.` },
  );
}
