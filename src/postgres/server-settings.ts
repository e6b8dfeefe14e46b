/**
 * What goes on the attached server's command line: the settings that make it the node's.
 *
 * A data directory comes with its primary's configuration. The command line wins over it, so that
 * nothing that the primary meant for itself (its port, its log, a recovery once made to a point in
 * time) happens here, and nothing of ours is written into a directory that is to be backed up.
 * What is not named here is as the configuration files have it: memory, archiving, logging of
 * statements, limits that must be no lower than the primary's.
 */
import { join } from 'node:path';
import { assert } from '../base/assert.ts';

export interface ServerSettingsOptions {
  major: number;
  /** The absolute paths of what belongs to the server. */
  dataDirectory: string;
  hbaFile: string;
  identFile: string;
  /** Where the server listens, and nowhere else. */
  sqlSocketDirectory: string;
  /** Where the node listens for the server's WAL receiver; no comma may be in it. */
  walSocketDirectory: string;
  /** pg_wal of the node. */
  walDirectory: string;
  /** That of both sockets. */
  port: number;
  /** How the server names itself, to the node too. */
  clusterName: string;
}

/** The settings by name, values as `-c name=value` takes them. */
export function serverSettings(options: ServerSettingsOptions): Record<string, string> {
  const { major, port, clusterName } = options;
  return {
    // Debian's postgresql.conf names the primary's own directory and files elsewhere.
    data_directory: options.dataDirectory,
    hba_file: options.hbaFile,
    ident_file: options.identFile,
    // An empty name would be complained of in the log.
    external_pid_file: join(options.sqlSocketDirectory, 'postgres.pid'),

    listen_addresses: '',
    port: String(port),
    unix_socket_directories: formatSocketDirectory(options.sqlSocketDirectory),
    unix_socket_permissions: '0700',
    unix_socket_group: '',
    // TLS ends at the node's port; the primary's certificate may not be here.
    ssl: 'off',
    cluster_name: clusterName,

    hot_standby: 'on',
    primary_conninfo: formatConninfo({
      host: libpqHost(options.walSocketDirectory),
      port: String(port),
      user: 'walcade',
      application_name: clusterName,
    }),
    // The node keeps what its server needs without a slot, a temporary one included.
    primary_slot_name: '',
    wal_receiver_create_temp_slot: 'off',
    // For the node's view of its server, and what it reports on to its upstream.
    wal_receiver_status_interval: '1s',
    restore_command: restoreCommand(options.walDirectory, restoreRequest(options)),
    recovery_target_timeline: 'latest',
    ...WITHOUT_LEFTOVERS,
    // A file of this name may be here too, and would promote the server at its first start.
    ...(major <= 15 ? { promote_trigger_file: '' } : {}),
    // Two servers of one machine must not share it, as Debian's setting would have them do.
    ...(major <= 14 ? { stats_temp_directory: 'pg_stat_tmp' } : {}),
    // It would need a database and a slot upstream, and complains of it in the log.
    ...(major >= 17 ? { sync_replication_slots: 'off' } : {}),

    ...LOGGING,
  };
}

/** What a primary may still have from a time when it was in recovery itself. */
const WITHOUT_LEFTOVERS = {
  recovery_target: '',
  recovery_target_lsn: '',
  recovery_target_name: '',
  recovery_target_time: '',
  recovery_target_xid: '',
  // The first removes files of an archive that is not this server's, the other runs at promotion.
  archive_cleanup_command: '',
  recovery_end_command: '',
};

/** The node writes the server's log with its own, and reads the server's state in it. */
const LOGGING = {
  logging_collector: 'off',
  log_destination: 'stderr',
  log_line_prefix: '%m [%p] %q[%u@%d] ',
  log_timezone: 'UTC',
  lc_messages: 'C',
};

/**
 * The file that the server's restore_command makes before it copies, and the node takes away when
 * all is there that it will pass on: while the server is promoted, that is the end of the timeline.
 */
export function restoreRequest({
  walSocketDirectory,
}: Pick<ServerSettingsOptions, 'walSocketDirectory'>): string {
  return join(walSocketDirectory, 'restoring');
}

/**
 * A restore_command that copies from `walDirectory`: segments under their names, the unfinished
 * one too, and history files. It needs no node, so that whoever promotes the server, it first
 * replays all that the node holds: of a segment that no other follows, `request` is waited for a
 * fifth of a second at most, since the node may be gone.
 *
 * A file that is not there is status 1, in silence. So is everything else that goes wrong: above
 * 125, as for a missing `cp`, the server would give up (xlogarchive.c, RestoreArchivedFile()).
 */
export function restoreCommand(walDirectory: string, request: string): string {
  const where = `w=${quoted(walDirectory)}; r=${quoted(request)}; s=%f; n=0`;
  return `${where}; ${RESTORE_SCRIPT.replaceAll('%', '%%')}; cp "$w/$s" "%p" || exit 1`;
}

/** A segment is complete if the next one is there, of the same 4 GB of WAL or of those after. */
const NEXT_NAMES = [
  't=${s%????????}',
  'g=${s#"$t"}',
  'l=${t#????????}',
  'set -- $(printf "%s%08X %s%08X00000000" "$t" $((0x$g+1)) "${t%????????}" $((0x$l+1)))',
].join('; ');

const RESTORE_SCRIPT = [
  'test -f "$w/$s" || exit 1',
  `case "$s" in *.*) n=20 ;; *) ${NEXT_NAMES}`,
  'if test -f "$w/$1" || test -f "$w/$2"; then n=20; fi ;; esac',
  'if test $n -eq 0; then { rm -f "$r"; true >"$r"; } 2>/dev/null; fi',
  'while test -e "$r" -a $n -lt 20; do sleep 0.01; n=$((n+1)); done 2>/dev/null',
].join('; ');

/** Within single quotes a shell takes all but those as they are; the server takes %f and %%. */
function quoted(path: string): string {
  return `'${path.replaceAll('%', '%%').replaceAll("'", "'\\''")}'`;
}

/** One directory as a value of unix_socket_directories (varlena.c, SplitDirectoriesString()). */
export function formatSocketDirectory(directory: string): string {
  return `"${directory.replaceAll('"', '""')}"`;
}

/** libpq splits a host at commas, also a socket's directory, and has no escape for them. */
function libpqHost(directory: string): string {
  assert(!directory.includes(','), 'the path of a socket for libpq has no comma');
  return directory;
}

/** A connection string (manual, "Keyword/Value Connection Strings"). */
function formatConninfo(keywords: Record<string, string>): string {
  return Object.entries(keywords)
    .map(([keyword, value]) => `${keyword}='${value.replace(/['\\]/g, '\\$&')}'`)
    .join(' ');
}
