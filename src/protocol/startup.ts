/**
 * The first packet of a connection: parsed as PostgreSQL's ProcessStartupPacket() does, with its
 * texts and SQLSTATEs, and encoded for an upstream. It is the one message without a type byte.
 *
 * What is not understood is never refused: unrecognised parameters are settings, and protocol
 * extensions are negotiated away.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { CANCEL_KEY_BYTES_MAX, type ProtocolNegotiation } from './backend-messages.ts';
import { asBuffer, cstring, packet, uint32 } from './bytes.ts';

/** The longest packet, length included, that a server reads before it knows who is there. */
export const STARTUP_PACKET_BYTES_MAX = 10_000;

/** Protocol 3.0: the only version that walcade speaks, and all that replication needs. */
export const PROTOCOL_VERSION = 196_608;

const CANCEL_REQUEST = 80_877_102;
const SSL_REQUEST = 80_877_103;
const GSS_REQUEST = 80_877_104;
const PROTOCOL_EXTENSION_PREFIX = '_pq_.';

export interface SessionStartup {
  kind: 'startup';
  majorVersion: number;
  minorVersion: number;
  /** Name to value; of a name that occurs twice, the last value. */
  parameters: Map<string, string>;
  /** The `_pq_.` parameters, name to value; they are not among `parameters`. */
  protocolExtensions: Map<string, string>;
}

export type StartupPacket =
  | { kind: 'ssl-request' }
  | { kind: 'gss-request' }
  | { kind: 'cancel'; processId: number; key: Buffer }
  | SessionStartup;

/** A StartupMessage. `user` is required by every server. */
export function encodeStartup(
  parameters: Readonly<Record<string, string>>,
  version: number = PROTOCOL_VERSION,
): Buffer {
  return encodeParameters(version, Object.entries(parameters));
}

/** The StartupMessage that asks a server for what `startup` asked for: what it is parsed from. */
export function encodeSessionStartup(startup: SessionStartup): Buffer {
  const { majorVersion, minorVersion, parameters, protocolExtensions } = startup;
  const version = majorVersion * 0x10000 + minorVersion;
  return encodeParameters(version, [...parameters, ...protocolExtensions]);
}

function encodeParameters(version: number, pairs: readonly [string, string][]): Buffer {
  return packet(uint32(version), ...pairs.flat().map(cstring), cstring(''));
}

export function encodeSslRequest(): Buffer {
  return packet(uint32(SSL_REQUEST));
}

export function encodeGssRequest(): Buffer {
  return packet(uint32(GSS_REQUEST));
}

/** Asks a server to cancel what the connection with this key is doing; there is no answer. */
export function encodeCancelRequest(processId: number, key: Uint8Array): Buffer {
  return packet(uint32(CANCEL_REQUEST), uint32(processId >>> 0), key);
}

/**
 * Parses a first packet; `body` is what follows its Int32 length. Throws, each FATAL to the
 * client, 08P01 for a layout that is wrong, 0A000 for a protocol other than 3, 28000 for no user.
 */
export function parseStartupPacket(body: Uint8Array): StartupPacket {
  const bytes = asBuffer(body);
  if (bytes.length < 4 || bytes.length > STARTUP_PACKET_BYTES_MAX - 4) {
    throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, 'invalid length of startup packet', {
      detail: `The packet has ${bytes.length + 4} bytes.`,
    });
  }
  const code = bytes.readUInt32BE(0);
  if (code === SSL_REQUEST) return { kind: 'ssl-request' };
  if (code === GSS_REQUEST) return { kind: 'gss-request' };
  if (code === CANCEL_REQUEST) return parseCancelRequest(bytes);
  return parseSessionStartup(bytes, code);
}

function parseCancelRequest(bytes: Buffer): StartupPacket {
  const keyBytes = bytes.length - 8;
  if (keyBytes < 4 || keyBytes > CANCEL_KEY_BYTES_MAX) {
    throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, 'invalid length of query cancel packet', {
      detail: `The packet has ${bytes.length + 4} bytes.`,
    });
  }
  return { kind: 'cancel', processId: bytes.readInt32BE(4), key: bytes.subarray(8) };
}

function parseSessionStartup(bytes: Buffer, version: number): SessionStartup {
  const majorVersion = version >>> 16;
  const minorVersion = version & 0xffff;
  if (majorVersion !== 3) {
    throw new WalcadeError(
      SQLSTATE.FEATURE_NOT_SUPPORTED,
      `unsupported frontend protocol ${majorVersion}.${minorVersion}: server supports 3.0 to 3.0`,
    );
  }
  const parameters = new Map<string, string>();
  const protocolExtensions = new Map<string, string>();
  for (const [name, value] of readPairs(bytes)) {
    if (name.startsWith(PROTOCOL_EXTENSION_PREFIX)) protocolExtensions.set(name, value);
    else parameters.set(name, value);
  }
  if (!parameters.get('user')) {
    throw new WalcadeError(
      SQLSTATE.INVALID_AUTHORIZATION,
      'no PostgreSQL user name specified in startup packet',
    );
  }
  return { kind: 'startup', majorVersion, minorVersion, parameters, protocolExtensions };
}

/** The name and value pairs after the version; the zero byte that ends them must be the last. */
function readPairs(bytes: Buffer): [string, string][] {
  const pairs: [string, string][] = [];
  const last = bytes.length - 1;
  let offset = 4;
  while (offset < last && bytes[offset] !== 0) {
    const nameEnd = bytes.indexOf(0, offset);
    const valueEnd = nameEnd < 0 ? -1 : bytes.indexOf(0, nameEnd + 1);
    if (valueEnd < 0) break;
    const name = bytes.toString('utf8', offset, nameEnd);
    pairs.push([name, bytes.toString('utf8', nameEnd + 1, valueEnd)]);
    offset = valueEnd + 1;
  }
  if (offset === last && bytes[last] === 0) return pairs;
  throw new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    'invalid startup packet layout: expected terminator as last byte',
  );
}

/** `physical` and `database` are WAL sender sessions, `none` is an ordinary one. */
export type ReplicationMode = 'physical' | 'database' | 'none';

/**
 * What the startup parameter `replication` asks for. Throws 22023 for a value that is neither
 * `database` nor a spelling of a boolean.
 */
export function replicationMode(value: string | undefined): ReplicationMode {
  if (value === undefined) return 'none';
  if (value === 'database') return 'database';
  const wanted = parseBoolean(value);
  if (wanted !== undefined) return wanted ? 'physical' : 'none';
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    `invalid value for parameter "replication": "${value}"`,
    { hint: 'Valid values are: "false", 0, "true", 1, "database".' },
  );
}

/** Every spelling of bool.c, parse_bool(): words, their unambiguous prefixes, 1 and 0. */
function parseBoolean(text: string): boolean | undefined {
  const word = text.toLowerCase();
  if (word === '' || word === 'o') return undefined;
  if ('true'.startsWith(word) || 'yes'.startsWith(word) || word === 'on' || word === '1') {
    return true;
  }
  if ('false'.startsWith(word) || 'no'.startsWith(word) || 'off'.startsWith(word)) return false;
  return word === '0' ? false : undefined;
}

/**
 * What NegotiateProtocolVersion must say before authentication, or undefined if the client asked
 * for nothing beyond 3.0 and the `known` extensions: libpq refuses a negotiation that changes
 * nothing.
 */
export function negotiation(
  { minorVersion, protocolExtensions }: SessionStartup,
  known: readonly string[] = [],
): ProtocolNegotiation | undefined {
  const unrecognized = [...protocolExtensions.keys()].filter((name) => !known.includes(name));
  if (minorVersion === 0 && unrecognized.length === 0) return undefined;
  return { version: PROTOCOL_VERSION, unrecognized };
}

const NAME_BYTES_MAX = 63;

/**
 * A user's or database's name as a server takes it from a startup packet: no longer than names are
 * (ProcessStartupPacket(); 17.0 to 17.2 alone do not cut). So no server cuts it any further after
 * rules were matched with it. A server cuts within a character too, and then finds no such name;
 * here it is cut between characters, which gives the name that CREATE ROLE has made of it.
 */
export function cutName(name: string): string {
  const bytes = Buffer.from(name);
  if (bytes.length <= NAME_BYTES_MAX) return name;
  let end = NAME_BYTES_MAX;
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end--;
  return bytes.toString('utf8', 0, end);
}

/**
 * An application_name as statistics and logs may show it: bytes that are not printable ASCII as
 * `\xNN`, then cut as names are (pg_clean_ascii(), pgstat_report_appname()).
 */
export function cleanApplicationName(name: string): string {
  const clean = Array.from(Buffer.from(name), (byte) =>
    byte >= 32 && byte <= 126
      ? String.fromCharCode(byte)
      : `\\x${byte.toString(16).padStart(2, '0')}`,
  );
  return clean.join('').slice(0, NAME_BYTES_MAX);
}
