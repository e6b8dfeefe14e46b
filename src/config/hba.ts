/**
 * Who may connect: the rules of walcade_hba.conf, in the syntax and with the meaning of
 * pg_hba.conf (hba.c, parse_hba_line() and check_hba()).
 *
 * The first rule that matches decides; without one the connection is refused. What cannot be
 * honoured yet (other methods, host names, roles, regular expressions) is refused when the file
 * is read, so that no rule is weaker than it looks.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SQLSTATE, WalcadeError, asWalcadeError, describeSystemError } from '../base/errors.ts';
import { type HbaLine, type HbaToken, scanHba } from './hba-syntax.ts';
import {
  type IpAddress,
  type IpRange,
  cidrMask,
  isInRange,
  localRanges,
  parseIpAddress,
} from './ip-address.ts';

export const HBA_FILE_NAME = 'walcade_hba.conf';

const CONNECTION_TYPES = [
  'local',
  'host',
  'hostssl',
  'hostnossl',
  'hostgssenc',
  'hostnogssenc',
] as const;
const METHODS_LATER =
  'ident peer password gss sspi md5 scram-sha-256 pam bsd ldap cert radius oauth'.split(' ');

export type HbaAddress =
  | { readonly kind: 'all' | 'samehost' | 'samenet' }
  | { readonly kind: 'range'; readonly range: IpRange };

export interface HbaRule {
  readonly line: number;
  readonly type: (typeof CONNECTION_TYPES)[number];
  readonly databases: readonly HbaToken[];
  readonly users: readonly HbaToken[];
  /** Not used by `local`. */
  readonly address: HbaAddress;
  readonly method: 'trust' | 'reject';
}

export interface HbaClient {
  readonly transport: 'local' | 'tcp';
  /** The client's IP address; needed for `tcp`. */
  readonly address?: string;
  /** The address it connected to: `samehost` counts it among this machine's own. */
  readonly localAddress?: string;
  readonly user: string;
  readonly database: string;
  /** Whether it asks for physical replication; with `replication=database` it does not. */
  readonly replication: boolean;
}

export type HbaResult =
  | { readonly kind: 'trust' }
  | { readonly kind: 'reject'; readonly rule: HbaRule }
  | { readonly kind: 'no-match' };

/** The rules of the node in `directory`; throws F0000 as `parseHba` does. */
export async function loadHba(directory: string): Promise<HbaRule[]> {
  let text: string;
  try {
    text = await readFile(join(directory, HBA_FILE_NAME), 'utf8');
  } catch (cause) {
    throw new WalcadeError(
      SQLSTATE.CONFIG_FILE_ERROR,
      `could not open file "${HBA_FILE_NAME}": ${describeSystemError(cause)}`,
      { cause },
    );
  }
  return parseHba(text, HBA_FILE_NAME);
}

/** Reads the rules. Throws F0000 with every error of the file, and its line, in the detail. */
export function parseHba(text: string, fileName: string): HbaRule[] {
  const rules: HbaRule[] = [];
  const errors: string[] = [];
  for (const line of scanHba(text)) {
    try {
      rules.push(parseRule(line));
    } catch (error) {
      const { message, hint } = asWalcadeError(error);
      const place = `line ${line.line} of configuration file "${fileName}"`;
      errors.push(`${place}: ${message}${hint === undefined ? '' : `: ${hint}`}`);
    }
  }
  if (errors.length === 0 && rules.length === 0) {
    throw new WalcadeError(
      SQLSTATE.CONFIG_FILE_ERROR,
      `configuration file "${fileName}" contains no entries`,
    );
  }
  if (errors.length === 0) return rules;
  throw new WalcadeError(
    SQLSTATE.CONFIG_FILE_ERROR,
    `configuration file "${fileName}" contains errors`,
    { detail: errors.join('\n') },
  );
}

function parseRule({ line, fields }: HbaLine): HbaRule {
  const rest = [...fields];
  const next = (what: string): readonly HbaToken[] => {
    const field = rest.shift();
    if (field === undefined) throw invalid(`end-of-line before ${what}`);
    return field;
  };
  const nextOne = (what: string, { missing = what }: { missing?: string } = {}): HbaToken => {
    const [token, second] = next(missing);
    if (token !== undefined && second === undefined) return token;
    throw invalid(`multiple values specified for ${what}`, `Specify exactly one ${what} per line.`);
  };
  const { text: typeName } = nextOne('connection type');
  const type = CONNECTION_TYPES.find((each) => each === typeName);
  if (type === undefined) throw invalid(`invalid connection type "${typeName}"`);
  const databases = next('database specification');
  refuseUnsupportedNames(databases, ['samerole', 'samegroup']);
  const users = next('role specification');
  refuseUnsupportedNames(users, []);
  let address: HbaAddress = { kind: 'all' };
  if (type !== 'local') {
    const token = nextOne('host address', { missing: 'IP address specification' });
    address = parseAddress(token, () => nextOne('netmask', { missing: 'netmask specification' }));
  }
  const method = parseMethod(
    nextOne('authentication type', { missing: 'authentication method' }).text,
  );
  for (const { text } of rest.flat()) {
    const [name, value] = text.split('=', 2);
    if (value === undefined) {
      throw invalid(`authentication option not in name=value format: ${text}`);
    }
    throw invalid(`unrecognized authentication option name: "${name}"`);
  }
  return { line, type, databases, users, address, method };
}

/** What would need role memberships, other files or regular expressions to be decided. */
function refuseUnsupportedNames(tokens: readonly HbaToken[], keywords: readonly string[]): void {
  for (const { text, isQuoted } of tokens) {
    if (isQuoted) continue;
    if (/^[+@/]/.test(text) || keywords.includes(text)) {
      throw unsupported(`"${text}" in a database or role specification is not supported yet`);
    }
  }
}

function parseMethod(text: string): HbaRule['method'] {
  if (text === 'trust' || text === 'reject') return text;
  if (METHODS_LATER.includes(text)) {
    throw unsupported(`authentication method "${text}" is not supported yet`);
  }
  throw invalid(`invalid authentication method "${text}"`);
}

function parseAddress({ text, isQuoted }: HbaToken, nextMask: () => HbaToken): HbaAddress {
  if (!isQuoted && (text === 'all' || text === 'samehost' || text === 'samenet')) {
    return { kind: text };
  }
  const [host = '', bits] = text.split(/\/(.*)/s);
  const address = parseIpAddress(host);
  if (address === undefined) {
    if (bits !== undefined) {
      throw invalid(`specifying both host name and CIDR mask is invalid: "${text}"`);
    }
    throw unsupported(`host name "${text}" is not supported yet`, 'Use an IP address.');
  }
  // A mapped address is kept as IPv4, so its mask loses the 96 bits that say "mapped".
  const isMapped = address.length === 4 && host.includes(':');
  if (bits !== undefined) {
    const width = isMapped ? 128 : address.length * 8;
    const count = /^\d+$/.test(bits) ? Number(bits) : Number.NaN;
    if (!(count <= width) || (isMapped && count < 96)) {
      throw invalid(`invalid CIDR mask in address "${text}"`);
    }
    const mask = cidrMask(isMapped ? count - 96 : count, address.length);
    return { kind: 'range', range: { address, mask } };
  }
  const maskToken = nextMask();
  const mask = parseIpAddress(maskToken.text);
  if (mask === undefined) throw invalid(`invalid IP mask "${maskToken.text}"`);
  if (mask.length !== address.length) throw invalid('IP address and mask do not match');
  return { kind: 'range', range: { address, mask } };
}

/** The first rule that matches the client decides. `own` are this machine's addresses. */
export function matchHba(
  rules: readonly HbaRule[],
  client: HbaClient,
  { own = localRanges }: { own?: () => readonly IpRange[] } = {},
): HbaResult {
  const address = parseIpAddress(client.address ?? '');
  const rule = rules.find(
    (each) =>
      matchesType(each, client) &&
      (each.type === 'local' || matchesAddress(each.address, { address, client, own })) &&
      matchesDatabase(each.databases, client) &&
      matchesUser(each.users, client.user),
  );
  if (!rule) return { kind: 'no-match' };
  return rule.method === 'trust' ? { kind: 'trust' } : { kind: 'reject', rule };
}

/** There is no encryption yet, so `hostssl` and `hostgssenc` match nobody. */
function matchesType({ type }: HbaRule, { transport }: HbaClient): boolean {
  if (transport === 'local') return type === 'local';
  return type === 'host' || type === 'hostnossl' || type === 'hostnogssenc';
}

function matchesAddress(
  wanted: HbaAddress,
  {
    address,
    client,
    own,
  }: { address: IpAddress | undefined; client: HbaClient; own: () => readonly IpRange[] },
): boolean {
  if (address === undefined) return false;
  if (wanted.kind === 'all') return true;
  if (wanted.kind === 'range') return isInRange(address, wanted.range);
  if (wanted.kind === 'samenet') return own().some((range) => isInRange(address, range));
  const reached = parseIpAddress(client.localAddress ?? '');
  const addresses = own().map((range) => range.address);
  if (reached) addresses.push(reached);
  return addresses.some((each) => isSameAddress(each, address));
}

function isSameAddress(one: IpAddress, other: IpAddress): boolean {
  return isInRange(one, { address: other, mask: cidrMask(other.length * 8, other.length) });
}

/** hba.c, check_db(): physical replication is matched by its keyword alone. */
function matchesDatabase(
  tokens: readonly HbaToken[],
  { user, database, replication }: HbaClient,
): boolean {
  return tokens.some(({ text, isQuoted }) => {
    const keyword = isQuoted ? '' : text;
    if (replication || keyword === 'replication') return replication && keyword === 'replication';
    if (keyword === 'all') return true;
    if (keyword === 'sameuser') return database === user;
    return text === database;
  });
}

function matchesUser(tokens: readonly HbaToken[], user: string): boolean {
  return tokens.some(({ text, isQuoted }) => (!isQuoted && text === 'all') || text === user);
}

/** The refusal a client is sent (auth.c, ClientAuthentication()): 28000, to be sent as FATAL. */
export function hbaRefusal(
  result: Exclude<HbaResult, { kind: 'trust' }>,
  { transport, address, user, database, replication }: HbaClient,
): WalcadeError {
  const host = transport === 'local' ? '[local]' : (address ?? '');
  const about = replication
    ? `host "${host}", user "${user}", no encryption`
    : `host "${host}", user "${user}", database "${database}", no encryption`;
  const kind = replication ? 'replication connection ' : '';
  const message =
    result.kind === 'reject'
      ? `${HBA_FILE_NAME} rejects ${kind || 'connection '}for ${about}`
      : `no ${HBA_FILE_NAME} entry for ${kind}${replication ? 'from ' : ''}${about}`;
  return new WalcadeError(SQLSTATE.INVALID_AUTHORIZATION, message);
}

function unsupported(message: string, hint?: string): WalcadeError {
  const options = hint === undefined ? {} : { hint };
  return new WalcadeError(SQLSTATE.FEATURE_NOT_SUPPORTED, message, options);
}

function invalid(message: string, hint?: string): WalcadeError {
  const options = hint === undefined ? {} : { hint };
  return new WalcadeError(SQLSTATE.CONFIG_FILE_ERROR, message, options);
}
