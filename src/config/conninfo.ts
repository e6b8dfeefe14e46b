/**
 * A connection string of libpq as the values walcade connects with.
 *
 * All keywords of libpq are accepted. One that promises safety (encryption, who the server is,
 * how it may authenticate) is validated here and, as long as the promise cannot be kept,
 * refused by `checkSupported`: it is never ignored. Environment variables and service files
 * are not read.
 */
import { userInfo } from 'node:os';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { type ServerAddress, parseAddresses } from './conninfo-addresses.ts';
import {
  CHOICES,
  type ChoiceKeyword,
  KEYWORDS,
  type RequireAuth,
  SECRET_KEYWORDS,
  parseRequireAuth,
} from './conninfo-keywords.ts';
import { formatConninfo, parseConninfoPairs } from './conninfo-syntax.ts';

export { type ServerAddress, isSocketDirectory, socketPath } from './conninfo-addresses.ts';
export { formatConninfo } from './conninfo-syntax.ts';

export type SslMode = (typeof CHOICES)['sslmode'][number];
export type TargetSessionAttrs = (typeof CHOICES)['target_session_attrs'][number];

/** How a TCP connection notices a dead peer; undefined means the system's default. */
export interface KeepaliveSettings {
  readonly enabled: boolean;
  readonly idleMs?: number;
  readonly intervalMs?: number;
  readonly count?: number;
  readonly tcpUserTimeoutMs?: number;
}

export interface Conninfo {
  /** Where to try, in this order; at least one. */
  readonly addresses: readonly ServerAddress[];
  readonly user: string;
  readonly password?: string;
  readonly passfile?: string;
  readonly dbname?: string;
  /** application_name, or else fallback_application_name. */
  readonly applicationName?: string;
  /** For each address; undefined means to wait as long as the system does. */
  readonly connectTimeoutMs?: number;
  readonly options?: string;
  readonly sslmode: SslMode;
  readonly targetSessionAttrs: TargetSessionAttrs;
  /** True if the addresses are to be tried in random order. */
  readonly loadBalanceHosts: boolean;
  readonly keepalives: KeepaliveSettings;
  readonly requireAuth?: RequireAuth;
  /** Every keyword as it was given, secrets included: to be edited and formatted again. */
  readonly pairs: Readonly<Record<string, string>>;
}

/** How walcade can prove itself to an upstream, in the words of require_auth. */
export const AUTHENTICATION_METHODS: readonly string[] = [
  'none',
  'password',
  'md5',
  'scram-sha-256',
];

/**
 * Reads a connection string, keyword/value or URI (manual, "Connection Strings").
 *
 * Without a user, it is the operating system's user name. Environment variables (PGHOST,
 * PGPASSWORD, …) are deliberately not read: a node must start the same from systemd and from a
 * shell. Throws 42601 if the syntax is broken, 22023 if a keyword or value is invalid or there
 * is none at all.
 */
export function parseConninfo(text: string): Conninfo {
  const pairs = parseConninfoPairs(text);
  if (pairs.size === 0) throw invalid('connection info string is empty');
  translateRequireSsl(pairs);
  const isUri = /^postgres(?:ql)?:\/\//.test(text);
  for (const keyword of pairs.keys()) {
    if (KEYWORDS.has(keyword)) continue;
    throw invalid(
      isUri
        ? `invalid URI query parameter: "${keyword}"`
        : `invalid connection option "${keyword}"`,
    );
  }
  const timeoutS = integer(pairs, 'connect_timeout') ?? 0;
  const requireAuth = parseRequireAuth(pairs.get('require_auth') ?? '');
  const password = nonEmpty(pairs, 'password');
  const passfile = nonEmpty(pairs, 'passfile');
  const dbname = nonEmpty(pairs, 'dbname');
  const options = nonEmpty(pairs, 'options');
  const applicationName =
    nonEmpty(pairs, 'application_name') ?? nonEmpty(pairs, 'fallback_application_name');
  for (const keyword of Object.keys(CHOICES)) choice(pairs, keyword as ChoiceKeyword);
  return {
    addresses: parseAddresses({
      hosts: pairs.get('host') ?? '',
      hostAddresses: pairs.get('hostaddr') ?? '',
      ports: pairs.get('port') ?? '',
    }),
    user: nonEmpty(pairs, 'user') ?? operatingSystemUser(),
    ...(password !== undefined && { password }),
    ...(passfile !== undefined && { passfile }),
    ...(dbname !== undefined && { dbname }),
    ...(options !== undefined && { options }),
    ...(applicationName !== undefined && { applicationName }),
    ...(timeoutS > 0 && { connectTimeoutMs: timeoutS * 1000 }),
    ...(requireAuth !== undefined && { requireAuth }),
    sslmode: parseSslMode(pairs),
    targetSessionAttrs: choice(pairs, 'target_session_attrs') ?? 'any',
    loadBalanceHosts: choice(pairs, 'load_balance_hosts') === 'random',
    keepalives: parseKeepalives(pairs),
    pairs: Object.fromEntries(pairs),
  };
}

/**
 * Refuses with 0A000 what the connection string demands for its safety and walcade cannot do
 * yet; call it wherever a connection string enters.
 */
export function checkSupported({ sslmode, requireAuth, pairs }: Conninfo): void {
  const noTls = 'There is no TLS for connections to an upstream yet.';
  const refuse = (keyword: string, value: string | undefined, detail: string): never => {
    const hint =
      detail === noTls
        ? 'Leave it out if the network is trusted, or connect through a TLS tunnel.'
        : undefined;
    throw new WalcadeError(
      SQLSTATE.FEATURE_NOT_SUPPORTED,
      `connection option ${keyword}=${value} is not supported yet`,
      { detail, hint },
    );
  };
  if (sslmode !== 'disable' && sslmode !== 'allow' && sslmode !== 'prefer') {
    refuse('sslmode', sslmode, noTls);
  }
  const promises: [keyword: string, value: string, detail: string][] = [
    ['sslnegotiation', 'direct', noTls],
    ['sslcertmode', 'require', noTls],
    ['channel_binding', 'require', noTls],
    ['gssencmode', 'require', 'There is no GSSAPI encryption.'],
    ['min_protocol_version', '3.2', 'The protocol version is 3.0.'],
    ['min_protocol_version', 'latest', 'The protocol version is 3.0.'],
  ];
  for (const [keyword, value, detail] of promises) {
    if (pairs[keyword] === value) refuse(keyword, value, detail);
  }
  for (const keyword of ['requirepeer', 'service', 'servicefile']) {
    if (!pairs[keyword]) continue;
    refuse(keyword, pairs[keyword], 'Leave it out and write the settings it stands for.');
  }
  if (requireAuth && !AUTHENTICATION_METHODS.some((method) => allows(requireAuth, method))) {
    const methods = AUTHENTICATION_METHODS.join(', ');
    refuse('require_auth', pairs['require_auth'], `The supported methods are: ${methods}.`);
  }
}

/**
 * Whether require_auth lets the server authenticate us by `method` (`none`, `password`, `md5`,
 * `scram-sha-256`, …). To be asked when the server has chosen, and for `none` too when it lets
 * us in without asking for anything (fe-auth.c, check_expected_areq()).
 */
export function allowsAuthentication({ requireAuth }: Conninfo, method: string): boolean {
  return requireAuth === undefined || allows(requireAuth, method);
}

function allows({ negated, methods }: RequireAuth, method: string): boolean {
  return methods.includes(method) !== negated;
}

/** A connection string for logs and status views: as given, without its secrets. */
export function describeConninfo(text: string): string {
  if (text === '') return text;
  const { pairs } = parseConninfo(text);
  const shown = Object.entries(pairs).filter(([keyword]) => !SECRET_KEYWORDS.has(keyword));
  return formatConninfo(Object.fromEntries(shown));
}

/** libpq's old spelling of sslmode (fe-connect.c, conninfo_storeval()). */
function translateRequireSsl(pairs: Map<string, string>): void {
  const value = pairs.get('requiressl');
  if (value === undefined) return;
  pairs.delete('requiressl');
  pairs.set('sslmode', value.startsWith('1') ? 'require' : 'prefer');
}

function parseSslMode(pairs: Map<string, string>): SslMode {
  const sslmode = choice(pairs, 'sslmode');
  if (pairs.get('sslrootcert') !== 'system') return sslmode ?? 'prefer';
  if (sslmode !== undefined && sslmode !== 'verify-full') {
    throw invalid(
      `weak sslmode "${sslmode}" may not be used with sslrootcert=system (use "verify-full")`,
    );
  }
  return 'verify-full';
}

function parseKeepalives(pairs: Map<string, string>): KeepaliveSettings {
  const positive = (keyword: string): number | undefined => {
    const value = integer(pairs, keyword) ?? 0;
    return value > 0 ? value : undefined;
  };
  const idleS = positive('keepalives_idle');
  const intervalS = positive('keepalives_interval');
  const count = positive('keepalives_count');
  const tcpUserTimeoutMs = positive('tcp_user_timeout');
  return {
    enabled: (integer(pairs, 'keepalives') ?? 1) !== 0,
    ...(idleS !== undefined && { idleMs: idleS * 1000 }),
    ...(intervalS !== undefined && { intervalMs: intervalS * 1000 }),
    ...(count !== undefined && { count }),
    ...(tcpUserTimeoutMs !== undefined && { tcpUserTimeoutMs }),
  };
}

function nonEmpty(pairs: Map<string, string>, keyword: string): string | undefined {
  const value = pairs.get(keyword);
  return value === '' ? undefined : value;
}

/** fe-connect.c, parse_int_param(). */
function integer(pairs: Map<string, string>, keyword: string): number | undefined {
  const text = pairs.get(keyword);
  if (text === undefined) return undefined;
  const value = /^\s*[+-]?\d+\s*$/.test(text) ? Number(text) : Number.NaN;
  if (Number.isNaN(value) || value !== (value | 0)) {
    throw invalid(`invalid integer value "${text}" for connection option "${keyword}"`);
  }
  return value;
}

function choice<K extends ChoiceKeyword>(
  pairs: Map<string, string>,
  keyword: K,
): (typeof CHOICES)[K][number] | undefined {
  const value = pairs.get(keyword);
  if (value === undefined) return undefined;
  const known: readonly (typeof CHOICES)[K][number][] = CHOICES[keyword];
  const found = known.find((candidate) => candidate === value);
  if (found === undefined) throw invalid(`invalid ${keyword} value: "${value}"`);
  return found;
}

function operatingSystemUser(): string {
  try {
    return userInfo().username;
  } catch (cause) {
    throw new WalcadeError(
      SQLSTATE.INVALID_AUTHORIZATION,
      `could not look up the local user name: ${describeSystemError(cause)}`,
      { hint: 'Write user=… into the connection string.', cause },
    );
  }
}

function invalid(message: string): WalcadeError {
  return new WalcadeError(SQLSTATE.INVALID_PARAMETER_VALUE, message);
}
