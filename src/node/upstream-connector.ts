/**
 * Makes connections to the upstream that primary_conninfo names, with the password it or the
 * password file gives. Each connection reads both anew, so a reload or a new password has effect.
 */
import type { Clock } from '../base/clock.ts';
import { asWalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import {
  type Conninfo,
  allowsAuthentication,
  checkSupported,
  formatConninfo,
  parseConninfo,
} from '../config/conninfo.ts';
import { defaultPasswordFile, readPasswordFile } from '../config/password-file.ts';
import { ReplicationClient } from '../protocol/client.ts';
import type { Network } from '../protocol/network.ts';
import {
  COMPRESSION_OPTION,
  type LinkCompression,
  NODE_ID,
  UPSTREAM_PATH,
} from '../protocol/node-parameters.ts';
import { loadZstd } from '../protocol/zstd.ts';

/** Unlike libpq: an upstream that does not answer must not hold up a node for ever. */
const CONNECT_TIMEOUT_MS_DEFAULT = 30_000;

const DATABASE_DEFAULT = 'postgres';

/**
 * What tells a node from PostgreSQL: a node answers SHOW of these with its own, PostgreSQL with
 * what the session has set, where it would otherwise log an ERROR for each connection.
 */
export const NO_NODE = { [NODE_ID]: '', [UPSTREAM_PATH]: '' };

export interface UpstreamConnectorOptions {
  network: Network;
  clock: Clock;
  log: Log;
}

/**
 * Connects to the upstream for physical replication, and asks for WAL compressed if `compression`
 * says so: a server that does not know of it says that and goes on. Throws what libpq would say of
 * a conninfo that is wrong, of an address that cannot be reached, or of a server that refuses.
 */
export async function connectUpstream(
  doors: UpstreamConnectorOptions,
  {
    text,
    applicationName,
    compression = 'off',
  }: { text: string; applicationName: string; compression?: LinkCompression },
  signal: AbortSignal,
): Promise<ReplicationClient> {
  const parameters = {
    database: 'replication',
    replication: 'true',
    ...NO_NODE,
    ...(await compressionOption(compression, doors.log)),
  };
  return connect(doors, { text, applicationName, parameters }, signal);
}

/** Asks for compressed WAL; only who can read it asks. */
async function compressionOption(
  compression: LinkCompression,
  log: Log,
): Promise<Record<string, string>> {
  if (compression === 'off') return {};
  try {
    await loadZstd();
    return { [COMPRESSION_OPTION]: compression };
  } catch (error) {
    log.warning(asWalcadeError(error));
    return {};
  }
}

/** Connects to it for SQL, to the database that the conninfo names, else to `postgres`. */
export async function connectForSql(
  doors: UpstreamConnectorOptions,
  { text, applicationName }: { text: string; applicationName: string },
  signal: AbortSignal,
): Promise<ReplicationClient> {
  const parameters = { database: parseConninfo(text).dbname ?? DATABASE_DEFAULT };
  return connect(doors, { text, applicationName, parameters }, signal);
}

async function connect(
  { network, clock, log }: UpstreamConnectorOptions,
  {
    text,
    applicationName,
    parameters,
  }: {
    text: string;
    applicationName: string;
    parameters: Record<string, string> & { database: string };
  },
  signal: AbortSignal,
): Promise<ReplicationClient> {
  const conninfo = parseConninfo(text);
  checkSupported(conninfo);
  const passwords = await readPasswords(conninfo, { database: parameters.database, log });
  const addresses = conninfo.loadBalanceHosts
    ? [...conninfo.addresses].sort(() => Math.random() - 0.5)
    : conninfo.addresses;
  return ReplicationClient.connect({
    network,
    clock,
    addresses,
    user: conninfo.user,
    password: ({ host, port }) => passwords.get(`${host}:${port}`),
    allowsAuthentication: (method) => allowsAuthentication(conninfo, method),
    sessionAttributes: conninfo.targetSessionAttrs,
    parameters: {
      application_name: conninfo.applicationName ?? applicationName,
      ...parameters,
      ...(conninfo.options === undefined ? {} : { options: conninfo.options }),
    },
    connectTimeoutMs: conninfo.connectTimeoutMs ?? CONNECT_TIMEOUT_MS_DEFAULT,
    signal,
    onNotice: ({ message }) => log.log(`notice from upstream: ${message}`),
  });
}

/**
 * The upstream for a program with libpq that asks it SQL: a conninfo without a password, and the
 * password. It is to look for nothing in files of ours, which it may not be able to read.
 */
export async function libpqAccess(
  text: string,
  log: Log,
): Promise<{ conninfo: string; password: string | undefined }> {
  const conninfo = parseConninfo(text);
  const { password: _, passfile: __, replication: ___, ...pairs } = conninfo.pairs;
  const dbname = conninfo.dbname ?? DATABASE_DEFAULT;
  const passwords = await readPasswords(conninfo, { database: dbname, log });
  const [password] = passwords.values();
  return { conninfo: formatConninfo({ ...pairs, user: conninfo.user, dbname }), password };
}

/** The password for each address: the conninfo's own, or the password file's. */
async function readPasswords(
  conninfo: Conninfo,
  { database, log }: { database: string; log: Log },
): Promise<Map<string, string>> {
  const passwords = new Map<string, string>();
  const path = conninfo.passfile ?? defaultPasswordFile();
  for (const { host, port, hostName } of conninfo.addresses) {
    const key = `${host}:${port}`;
    if (conninfo.password !== undefined) {
      passwords.set(key, conninfo.password);
      continue;
    }
    const query = { host: hostName ?? host, port, database, user: conninfo.user };
    const found = await readPasswordFile(path, query);
    if (found.kind === 'found') passwords.set(key, found.password);
    if (found.kind === 'ignored') log.warning(found.warning);
  }
  return passwords;
}
