/**
 * The host, hostaddr and port lists of a connection string as addresses to try one after the
 * other (fe-connect.c, pqConnectOptions2()).
 */
import { isIP } from 'node:net';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

export interface ServerAddress {
  /** What to connect to: a name, an IP address or a socket directory. */
  readonly host: string;
  readonly port: number;
  /** The host given beside a hostaddr: the name for the password file and certificates. */
  readonly hostName?: string;
}

const PORT_DEFAULT = 5432;

/** Where a server on this machine may listen: Debian's directory, PostgreSQL's own, TCP. */
const HOSTS_DEFAULT = ['/var/run/postgresql', '/tmp', 'localhost'];

/** Whether `host` names a directory of Unix sockets, or with `@` the abstract name space. */
export function isSocketDirectory(host: string): boolean {
  return host.startsWith('/') || host.startsWith('@');
}

/** The socket that a server on `port` makes in `directory`; `@` becomes the abstract name space. */
export function socketPath({ host, port }: ServerAddress): string {
  return `${host.replace(/^@/, '\0')}/.s.PGSQL.${port}`;
}

/**
 * Pairs the comma-separated lists up: as many ports as hosts, or one for all; an empty host
 * stands for the default ones, an empty port for 5432. Throws 22023 if they do not match.
 */
export function parseAddresses(lists: {
  hosts: string;
  hostAddresses: string;
  ports: string;
}): ServerAddress[] {
  const hosts = lists.hosts.split(',');
  const hostAddresses = lists.hostAddresses.split(',');
  if (lists.hosts !== '' && lists.hostAddresses !== '' && hosts.length !== hostAddresses.length) {
    throw invalid(
      `could not match ${hosts.length} host names to ${hostAddresses.length} hostaddr values`,
    );
  }
  const count = lists.hostAddresses === '' ? hosts.length : hostAddresses.length;
  const ports = lists.ports.split(',');
  if (ports.length !== 1 && ports.length !== count) {
    throw invalid(`could not match ${ports.length} port numbers to ${count} hosts`);
  }
  const addresses: ServerAddress[] = [];
  for (let index = 0; index < count; index++) {
    const host = hosts[index] ?? '';
    const hostAddress = hostAddresses[index] ?? '';
    const port = parsePort((ports.length === 1 ? ports[0] : ports[index]) ?? '');
    if (hostAddress !== '') {
      if (isIP(hostAddress) === 0) {
        throw invalid(`could not parse network address "${hostAddress}"`);
      }
      addresses.push({ host: hostAddress, port, ...(host !== '' && { hostName: host }) });
    } else if (host !== '') {
      addresses.push({ host, port });
    } else {
      addresses.push(...HOSTS_DEFAULT.map((each) => ({ host: each, port })));
    }
  }
  return addresses;
}

function parsePort(text: string): number {
  if (text === '') return PORT_DEFAULT;
  if (!/^\s*[+-]?\d+\s*$/.test(text)) {
    throw invalid(`invalid integer value "${text}" for connection option "port"`);
  }
  const port = Number(text);
  if (port < 1 || port > 65535) throw invalid(`invalid port number: "${text}"`);
  return port;
}

function invalid(message: string): WalcadeError {
  return new WalcadeError(SQLSTATE.INVALID_PARAMETER_VALUE, message);
}
