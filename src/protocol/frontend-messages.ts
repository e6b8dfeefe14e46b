/**
 * What a client sends after the startup packet, encode and decode side by side, in the order of
 * the manual's "Message Formats". Encoders return the whole message; decoders take the body alone
 * and refuse with 08P01 what is not exactly one.
 */
import { ByteReader, asBuffer, cstring, int32, message } from './bytes.ts';

/** `body` in a CopyData, which has the same form in both directions. */
export function encodeCopyData(body: Uint8Array): Buffer {
  return message('d', body);
}

/** A password, or the md5 answer to a salt. */
export function encodePassword(password: string): Buffer {
  return message('p', cstring(password));
}

export function decodePassword(body: Uint8Array): string {
  return decodeOneString(body, 'p');
}

/** A simple query: one replication command, or SQL. */
export function encodeQuery(text: string): Buffer {
  return message('Q', cstring(text));
}

export function decodeQuery(body: Uint8Array): string {
  return decodeOneString(body, 'Q');
}

export interface SaslInitialResponse {
  mechanism: string;
  /** The mechanism's first message; absent if the client leaves the first word to the server. */
  data: Buffer | undefined;
}

export function encodeSaslInitialResponse(mechanism: string, data: string | Uint8Array): Buffer {
  const bytes = toBytes(data);
  return message('p', cstring(mechanism), int32(bytes.length), bytes);
}

export function decodeSaslInitialResponse(body: Uint8Array): SaslInitialResponse {
  const reader = new ByteReader(body, 'p');
  const mechanism = reader.cstring();
  const length = reader.int32();
  const data = length === -1 ? undefined : reader.bytes(length);
  reader.end();
  return { mechanism, data };
}

export function encodeSaslResponse(data: string | Uint8Array): Buffer {
  return message('p', toBytes(data));
}

export function encodeTerminate(): Buffer {
  return message('X');
}

function decodeOneString(body: Uint8Array, messageName: string): string {
  const reader = new ByteReader(body, messageName);
  const text = reader.cstring();
  reader.end();
  return text;
}

function toBytes(data: string | Uint8Array): Buffer {
  return typeof data === 'string' ? Buffer.from(data, 'utf8') : asBuffer(data);
}
