/**
 * What a server sends, each message's encode and decode side by side, in the order of the manual's
 * "Message Formats". A node speaks both: encode towards a downstream, decode from its upstream.
 *
 * Encoders return the whole message (type byte, length, body); decoders take the body alone and
 * refuse with 08P01 what is not exactly one. Errors and notices are in error-response.ts, what
 * travels inside CopyData in replication-messages.ts.
 */
import { ByteReader, cstring, int16, int32, int8, message, uint16, uint32 } from './bytes.ts';

export { BACKEND, FRONTEND, MESSAGE_TYPE } from './message-type.ts';

/** The types of the columns that replication commands answer with (pg_type.dat). */
export const TYPE_OID = { BYTEA: 17, INT8: 20, INT4: 23, TEXT: 25, OID: 26 } as const;

const TYPE_BYTES = new Map<number, number>([
  [TYPE_OID.INT8, 8],
  [TYPE_OID.INT4, 4],
  [TYPE_OID.OID, 4],
]);

/** What a server asks of a client that logs in. */
export type AuthenticationRequest =
  | { kind: 'ok' }
  | { kind: 'cleartext-password' }
  | { kind: 'md5-password'; salt: Uint8Array }
  | { kind: 'sasl'; mechanisms: string[] }
  | { kind: 'sasl-continue'; data: Uint8Array }
  | { kind: 'sasl-final'; data: Uint8Array }
  /** A method that walcade has no answer to; `method` is the number on the wire. */
  | { kind: 'other'; method: number };

const AUTHENTICATION = {
  OK: 0,
  CLEARTEXT_PASSWORD: 3,
  MD5_PASSWORD: 5,
  SASL: 10,
  SASL_CONTINUE: 11,
  SASL_FINAL: 12,
} as const;

export function encodeAuthentication(request: AuthenticationRequest): Buffer {
  switch (request.kind) {
    case 'ok':
      return message('R', int32(AUTHENTICATION.OK));
    case 'cleartext-password':
      return message('R', int32(AUTHENTICATION.CLEARTEXT_PASSWORD));
    case 'md5-password':
      return message('R', int32(AUTHENTICATION.MD5_PASSWORD), request.salt);
    case 'sasl':
      return message(
        'R',
        int32(AUTHENTICATION.SASL),
        ...request.mechanisms.map(cstring),
        cstring(''),
      );
    case 'sasl-continue':
      return message('R', int32(AUTHENTICATION.SASL_CONTINUE), request.data);
    case 'sasl-final':
      return message('R', int32(AUTHENTICATION.SASL_FINAL), request.data);
    case 'other':
      break;
  }
  return message('R', int32(request.method));
}

export function decodeAuthentication(body: Uint8Array): AuthenticationRequest {
  const reader = new ByteReader(body, 'R', 4);
  const method = reader.int32();
  const request = decodeMethod(method, reader);
  reader.end();
  return request;
}

function decodeMethod(method: number, reader: ByteReader): AuthenticationRequest {
  switch (method) {
    case AUTHENTICATION.OK:
      return { kind: 'ok' };
    case AUTHENTICATION.CLEARTEXT_PASSWORD:
      return { kind: 'cleartext-password' };
    case AUTHENTICATION.MD5_PASSWORD:
      return { kind: 'md5-password', salt: reader.bytes(4) };
    case AUTHENTICATION.SASL:
      return { kind: 'sasl', mechanisms: decodeMechanisms(reader) };
    case AUTHENTICATION.SASL_CONTINUE:
      return { kind: 'sasl-continue', data: reader.rest() };
    case AUTHENTICATION.SASL_FINAL:
      return { kind: 'sasl-final', data: reader.rest() };
    default:
      reader.rest();
      return { kind: 'other', method };
  }
}

function decodeMechanisms(reader: ByteReader): string[] {
  const mechanisms: string[] = [];
  for (;;) {
    const mechanism = reader.cstring();
    if (mechanism === '') return mechanisms;
    mechanisms.push(mechanism);
  }
}

/** A connection's process id and the secret with which another connection can cancel it. */
export interface BackendKeyData {
  processId: number;
  /** 4 bytes in protocol 3.0, up to 256 in 3.2. */
  key: Buffer;
}

export const CANCEL_KEY_BYTES_MAX = 256;

export function encodeBackendKeyData(processId: number, key: Uint8Array): Buffer {
  return message('K', int32(processId), key);
}

export function decodeBackendKeyData(body: Uint8Array): BackendKeyData {
  const reader = new ByteReader(body, 'K', 8);
  const processId = reader.int32();
  const key = reader.bytes(Math.min(reader.remaining, CANCEL_KEY_BYTES_MAX));
  reader.end();
  return { processId, key };
}

/** `tag` is the command's tag: `IDENTIFY_SYSTEM`, `START_STREAMING`, `COPY 0`, … */
export function encodeCommandComplete(tag: string): Buffer {
  return message('C', cstring(tag));
}

export function decodeCommandComplete(body: Uint8Array): string {
  const reader = new ByteReader(body, 'C');
  const tag = reader.cstring();
  reader.end();
  return tag;
}

/** The end of a copy, in either direction. */
export const COPY_DONE: Buffer = message('c');

/** Both sides may send CopyData from here on (START_REPLICATION). */
export function encodeCopyBothResponse(): Buffer {
  return message('W', int8(0), int16(0));
}

/** The client is to send CopyData (UPLOAD_MANIFEST). */
export function encodeCopyInResponse(): Buffer {
  return message('G', int8(0), int16(0));
}

/** The server sends CopyData (BASE_BACKUP). */
export function encodeCopyOutResponse(): Buffer {
  return message('H', int8(0), int16(0));
}

/** One row; a column is text, bytes or NULL. */
export function encodeDataRow(columns: readonly (string | Uint8Array | null)[]): Buffer {
  const parts: Uint8Array[] = [uint16(columns.length)];
  for (const column of columns) {
    if (column === null) {
      parts.push(int32(-1));
      continue;
    }
    const bytes = typeof column === 'string' ? Buffer.from(column, 'utf8') : column;
    parts.push(int32(bytes.length), bytes);
  }
  return message('D', ...parts);
}

/** The columns are views of `body`. */
export function decodeDataRow(body: Uint8Array): (Buffer | null)[] {
  const reader = new ByteReader(body, 'D', 2);
  const columns: (Buffer | null)[] = [];
  for (let left = reader.uint16(); left > 0; left--) {
    const length = reader.int32();
    columns.push(length === -1 ? null : reader.bytes(length));
  }
  reader.end();
  return columns;
}

export interface ProtocolNegotiation {
  /** The whole version that the server will speak: 196608 is 3.0. */
  version: number;
  /** The `_pq_.` parameters of the startup packet that the server does not know. */
  unrecognized: string[];
}

export function encodeNegotiateProtocolVersion(
  version: number,
  unrecognized: readonly string[],
): Buffer {
  return message('v', uint32(version), int32(unrecognized.length), ...unrecognized.map(cstring));
}

export function decodeNegotiateProtocolVersion(body: Uint8Array): ProtocolNegotiation {
  const reader = new ByteReader(body, 'v', 8);
  const version = reader.uint32();
  const unrecognized: string[] = [];
  for (let left = reader.uint32(); left > 0; left--) unrecognized.push(reader.cstring());
  reader.end();
  return { version, unrecognized };
}

export function encodeParameterStatus(name: string, value: string): Buffer {
  return message('S', cstring(name), cstring(value));
}

export function decodeParameterStatus(body: Uint8Array): { name: string; value: string } {
  const reader = new ByteReader(body, 'S', 2);
  const status = { name: reader.cstring(), value: reader.cstring() };
  reader.end();
  return status;
}

/** A replication session is never inside a transaction, so the status is always idle. */
export function encodeReadyForQuery(): Buffer {
  return message('Z', Buffer.from('I'));
}

export interface ColumnDescription {
  name: string;
  typeOid: number;
  /** The type's size; -1 if it varies. By default that of `typeOid`. */
  typeBytes?: number;
  /** By default -1: none. */
  typeModifier?: number;
}

/** Columns of no table, in text format: what replication commands answer with. */
export function encodeRowDescription(columns: readonly ColumnDescription[]): Buffer {
  const parts: Uint8Array[] = [uint16(columns.length)];
  for (const { name, typeOid, typeBytes, typeModifier } of columns) {
    const size = typeBytes ?? TYPE_BYTES.get(typeOid) ?? -1;
    parts.push(cstring(name), int32(0), int16(0), uint32(typeOid));
    parts.push(int16(size), int32(typeModifier ?? -1), int16(0));
  }
  return message('T', ...parts);
}

export function decodeRowDescription(body: Uint8Array): { name: string; typeOid: number }[] {
  const reader = new ByteReader(body, 'T', 2);
  const columns: { name: string; typeOid: number }[] = [];
  for (let left = reader.uint16(); left > 0; left--) {
    const name = reader.cstring();
    reader.bytes(4 + 2);
    columns.push({ name, typeOid: reader.uint32() });
    reader.bytes(2 + 4 + 2);
  }
  reader.end();
  return columns;
}
