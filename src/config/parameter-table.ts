/**
 * The parameters of a node, each declared once, as data: everything that reads, checks, shows or
 * documents a parameter derives from this table, and so does the type NodeConfig.
 */
import { LOG_LEVELS } from '../base/log.ts';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { replacePercentPlaceholders } from '../base/percent-placeholders.ts';
import { checkSupported, parseConninfo } from './conninfo.ts';
import { type BaseUnit, INTEGER_MAX } from './parameter-values.ts';

/** In the order in which files and documentation have them. */
export const PARAMETER_GROUPS = [
  'Connections',
  'Upstream',
  'Downstreams',
  'Attached server',
  'Logging',
] as const;

export type ParameterGroup = (typeof PARAMETER_GROUPS)[number];

interface ParameterBase {
  readonly name: string;
  readonly group: ParameterGroup;
  /** What it takes for a change to have effect. */
  readonly context: 'restart' | 'reload';
  /** As it would be written in walcade.conf, without quotes. */
  readonly default: string;
  /** One line, for the comment beside it. */
  readonly description: string;
}

export type Parameter = ParameterBase &
  (
    | { readonly type: 'bool' }
    | {
        readonly type: 'integer';
        readonly min: number;
        readonly max: number;
        readonly unit?: BaseUnit;
        /** Shown and written as file permissions are. */
        readonly octal?: boolean;
      }
    | { readonly type: 'enum'; readonly values: readonly string[] }
    | { readonly type: 'string'; readonly check?: (value: string) => void }
    | { readonly type: 'list'; readonly spaces: boolean }
  );

export const PARAMETERS = {
  listenAddresses: {
    name: 'listen_addresses',
    type: 'list',
    spaces: false,
    default: 'localhost',
    group: 'Connections',
    context: 'restart',
    description: "what IP addresses to listen on; comma-separated, '*' for all",
  },
  port: {
    name: 'port',
    type: 'integer',
    min: 1,
    max: 65535,
    default: '5432',
    group: 'Connections',
    context: 'restart',
    description: 'TCP port, and number in the names of the Unix sockets',
  },
  unixSocketDirectories: {
    name: 'unix_socket_directories',
    type: 'list',
    spaces: true,
    default: '/tmp',
    group: 'Connections',
    context: 'restart',
    description: 'where to make Unix sockets; comma-separated',
  },
  unixSocketPermissions: {
    name: 'unix_socket_permissions',
    type: 'integer',
    min: 0,
    max: 0o777,
    octal: true,
    default: '0777',
    group: 'Connections',
    context: 'restart',
    description: 'begin with 0 to use octal notation',
  },
  authenticationTimeoutMs: {
    name: 'authentication_timeout',
    type: 'integer',
    min: 1,
    max: 600,
    unit: 's',
    default: '1min',
    group: 'Connections',
    context: 'reload',
    description: 'how long a client may take to complete authentication',
  },
  clusterName: {
    name: 'cluster_name',
    type: 'string',
    default: '',
    group: 'Upstream',
    context: 'restart',
    description: 'name of the node; application_name if primary_conninfo has none',
  },
  primaryConninfo: {
    name: 'primary_conninfo',
    type: 'string',
    check: checkConninfo,
    default: '',
    group: 'Upstream',
    context: 'reload',
    description: 'connection string to the upstream',
  },
  primarySlotName: {
    name: 'primary_slot_name',
    type: 'string',
    check: checkSlotName,
    default: '',
    group: 'Upstream',
    context: 'reload',
    description: 'replication slot on the upstream; empty for none',
  },
  restoreCommand: {
    name: 'restore_command',
    type: 'string',
    check: checkRestoreCommand,
    default: '',
    group: 'Upstream',
    context: 'reload',
    description: 'command that brings file %f of a WAL archive to path %p; empty for no archive',
  },
  walReceiverTimeoutMs: {
    name: 'wal_receiver_timeout',
    type: 'integer',
    min: 0,
    max: INTEGER_MAX,
    unit: 'ms',
    default: '1min',
    group: 'Upstream',
    context: 'reload',
    description: 'how long to wait for a sign of life from the upstream; 0 disables',
  },
  walReceiverStatusIntervalMs: {
    name: 'wal_receiver_status_interval',
    type: 'integer',
    min: 0,
    max: Math.floor(INTEGER_MAX / 1000),
    unit: 's',
    default: '10s',
    group: 'Upstream',
    context: 'reload',
    description: 'send replies at least this often; 0 disables',
  },
  walRetrieveRetryIntervalMs: {
    name: 'wal_retrieve_retry_interval',
    type: 'integer',
    min: 1,
    max: INTEGER_MAX,
    unit: 'ms',
    default: '5s',
    group: 'Upstream',
    context: 'reload',
    description: 'how long to wait before asking upstream and archive again',
  },
  linkCompression: {
    name: 'link_compression',
    type: 'enum',
    values: ['off', 'zstd'],
    default: 'off',
    group: 'Upstream',
    context: 'reload',
    description: 'how an upstream that is a node is to compress WAL',
  },
  maxRateBytes: {
    name: 'max_rate',
    type: 'integer',
    min: 0,
    max: INTEGER_MAX,
    unit: 'kB',
    default: '0',
    group: 'Upstream',
    context: 'reload',
    description: 'most to take from the upstream in a second; 0 is no limit',
  },
  hotStandbyFeedback: {
    name: 'hot_standby_feedback',
    type: 'bool',
    default: 'on',
    group: 'Upstream',
    context: 'reload',
    description: 'send the feedback of downstreams on to the upstream',
  },
  maxWalSenders: {
    name: 'max_wal_senders',
    type: 'integer',
    min: 0,
    max: 262_143,
    default: '1000',
    group: 'Downstreams',
    context: 'restart',
    description: 'how many downstreams may be connected',
  },
  maxReplicationSlots: {
    name: 'max_replication_slots',
    type: 'integer',
    min: 0,
    max: 262_143,
    default: '1000',
    group: 'Downstreams',
    context: 'restart',
    description: 'how many replication slots this node may have',
  },
  walKeepSizeBytes: {
    name: 'wal_keep_size',
    type: 'integer',
    min: 0,
    max: INTEGER_MAX,
    unit: 'MB',
    default: '1GB',
    group: 'Downstreams',
    context: 'reload',
    description: 'how much WAL to keep even if no slot needs it',
  },
  walSenderTimeoutMs: {
    name: 'wal_sender_timeout',
    type: 'integer',
    min: 0,
    max: INTEGER_MAX,
    unit: 'ms',
    default: '1min',
    group: 'Downstreams',
    context: 'reload',
    description: 'how long to wait for a sign of life from a downstream; 0 disables',
  },
  dataDirectory: {
    name: 'data_directory',
    type: 'string',
    default: '',
    group: 'Attached server',
    context: 'restart',
    description: "data directory of the node's own PostgreSQL; empty for a relay, which has none",
  },
  postgresBinDirectory: {
    name: 'postgres_bin_directory',
    type: 'string',
    default: '',
    group: 'Attached server',
    context: 'restart',
    description: 'where its programs are; empty to look for them',
  },
  promoteTriggerFile: {
    name: 'promote_trigger_file',
    type: 'string',
    default: '',
    group: 'Attached server',
    context: 'reload',
    description:
      'file whose presence promotes the node; it is removed then; a node behind is not promoted',
  },
  logMinMessages: {
    name: 'log_min_messages',
    type: 'enum',
    values: LOG_LEVELS,
    default: 'log',
    group: 'Logging',
    context: 'reload',
    description: 'the least level that is logged',
  },
  logConnections: {
    name: 'log_connections',
    type: 'bool',
    default: 'off',
    group: 'Logging',
    context: 'reload',
    description: 'log each connection',
  },
  logReplicationCommands: {
    name: 'log_replication_commands',
    type: 'bool',
    default: 'off',
    group: 'Logging',
    context: 'reload',
    description: 'log each replication command',
  },
} as const satisfies Record<string, Parameter>;

type Table = typeof PARAMETERS;
type ValueOf<P> = P extends { type: 'bool' }
  ? boolean
  : P extends { type: 'integer' }
    ? number
    : P extends { type: 'enum'; values: readonly (infer V)[] }
      ? V
      : P extends { type: 'list' }
        ? readonly string[]
        : string;

/** The name by which a part of walcade knows a parameter: `walSenderTimeoutMs`. */
export type ParameterKey = keyof Table;
/** The name by which the user knows it: `wal_sender_timeout`. */
export type ParameterName = Table[ParameterKey]['name'];
export type ParameterValue = boolean | number | string | readonly string[];

/** The value of each parameter: times in milliseconds, sizes in bytes. */
export type NodeConfig = { readonly [K in ParameterKey]: ValueOf<Table[K]> };

/** The message does not repeat the connection string, which may hold a password. */
function checkConninfo(text: string): void {
  if (text === '') return;
  try {
    checkSupported(parseConninfo(text));
  } catch (cause) {
    const { sqlstate, message, hint, detail } = asWalcadeError(cause);
    throw new WalcadeError(sqlstate, `invalid value for parameter "primary_conninfo": ${message}`, {
      cause,
      ...(hint !== undefined && { hint }),
      ...(detail !== undefined && { detail }),
    });
  }
}

function checkRestoreCommand(command: string): void {
  replacePercentPlaceholders('restore_command', command, { f: '', p: '', r: '' });
}

/** slot.c, ReplicationSlotValidateName(); empty means no slot. */
function checkSlotName(name: string): void {
  const refuse = (message: string, hint?: string): WalcadeError =>
    new WalcadeError(SQLSTATE.INVALID_NAME, message, hint === undefined ? {} : { hint });
  if (name.length > 63) throw refuse(`replication slot name "${name}" is too long`);
  if (/^[a-z0-9_]*$/.test(name)) return;
  throw refuse(
    `replication slot name "${name}" contains invalid character`,
    'Replication slot names may only contain lower case letters, numbers, ' +
      'and the underscore character.',
  );
}
