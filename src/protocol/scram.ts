/**
 * SCRAM-SHA-256 (RFC 5802, RFC 7677) as PostgreSQL uses it, and the older md5 answer.
 *
 * A ScramClient lives for one login: firstMessage, then answer, then verify, each once. The server
 * has proven that it knows the password only when verify has returned. The key derivation and the
 * messages' parts stand apart from the client, since a server's half needs the same ones.
 */
import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto';
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { saslprep } from './saslprep.ts';

export const SCRAM_SHA_256 = 'SCRAM-SHA-256';

/**
 * PostgreSQL sets no limit, its default is 4096, and the most that is recommended anywhere is
 * 600,000. The derivation holds up the whole process: this many take about a second, so an
 * impostor of an upstream cannot stop a node's downstreams with a number.
 */
export const SCRAM_ITERATIONS_MAX = 2_000_000;

const NONCE_BYTES = 18;

/** "n,,": the client does not support channel binding. */
const GS2_HEADER = 'n,,';

export interface ScramKeys {
  clientKey: Buffer;
  storedKey: Buffer;
  serverKey: Buffer;
}

/** What a password is worth with this salt. Takes time in proportion to `iterations`. */
export function deriveScramKeys(
  password: string,
  { salt, iterations }: { salt: Uint8Array; iterations: number },
): ScramKeys {
  const salted = pbkdf2Sync(saslprep(password), salt, iterations, 32, 'sha256');
  const clientKey = hmac(salted, 'Client Key');
  return { clientKey, storedKey: sha256(clientKey), serverKey: hmac(salted, 'Server Key') };
}

/** What the client proves with: ClientKey XOR HMAC(StoredKey, AuthMessage). */
export function scramClientProof({ clientKey, storedKey }: ScramKeys, authMessage: string): Buffer {
  const signature = hmac(storedKey, authMessage);
  return Buffer.from(clientKey.map((byte, index) => byte ^ (signature[index] ?? 0)));
}

/** What the server proves with: HMAC(ServerKey, AuthMessage). */
export function scramServerSignature(serverKey: Uint8Array, authMessage: string): Buffer {
  return hmac(serverKey, authMessage);
}

export interface ScramClientOptions {
  /** PostgreSQL ignores the name here and takes the startup packet's, so libpq leaves it empty. */
  user?: string;
  /** Printable characters other than a comma; random by default. */
  nonce?: string;
}

export class ScramClient {
  /** The client's first message, for SASLInitialResponse. */
  readonly firstMessage: string;
  readonly #password: string;
  readonly #nonce: string;
  readonly #firstMessageBare: string;
  #expectedSignature: Buffer | undefined;

  constructor(password: string, { user = '', nonce = randomNonce() }: ScramClientOptions = {}) {
    this.#password = password;
    this.#nonce = nonce;
    this.#firstMessageBare = `n=${user.replaceAll('=', '=3D').replaceAll(',', '=2C')},r=${nonce}`;
    this.firstMessage = GS2_HEADER + this.#firstMessageBare;
  }

  /** The answer to the server's first message. Throws 08P01 for one that it cannot be. */
  answer(serverFirst: string): string {
    assert(this.#expectedSignature === undefined, 'a SCRAM exchange has one server-first message');
    const { nonce, salt, iterations } = parseServerFirst(serverFirst);
    if (!nonce.startsWith(this.#nonce) || nonce.length === this.#nonce.length) {
      throw violation('invalid SCRAM response (nonce mismatch)');
    }
    const keys = deriveScramKeys(this.#password, { salt, iterations });
    const channelBinding = Buffer.from(GS2_HEADER).toString('base64');
    const withoutProof = `c=${channelBinding},r=${nonce}`;
    const authMessage = `${this.#firstMessageBare},${serverFirst},${withoutProof}`;
    this.#expectedSignature = scramServerSignature(keys.serverKey, authMessage);
    return `${withoutProof},p=${scramClientProof(keys, authMessage).toString('base64')}`;
  }

  /**
   * Checks the server's last message. Throws 28P01 if the server refuses, 28000 if it does not
   * know the password either, 08P01 for a message that is malformed.
   */
  verify(serverFinal: string): void {
    const expected = this.#expectedSignature;
    assert(expected !== undefined, 'the server-final message follows the client-final one');
    const attributes = new Attributes(serverFinal);
    if (attributes.isNext('e')) {
      throw new WalcadeError(
        SQLSTATE.INVALID_PASSWORD,
        `error received from server in SCRAM exchange: ${attributes.take('e')}`,
      );
    }
    const signature = decodeBase64(attributes.take('v'));
    if (!attributes.isAtEnd || signature?.length !== expected.length) {
      throw violation('malformed SCRAM message (invalid server signature)');
    }
    if (!timingSafeEqual(signature, expected)) {
      throw new WalcadeError(SQLSTATE.INVALID_AUTHORIZATION, 'incorrect server signature');
    }
  }
}

interface ServerFirst {
  nonce: string;
  salt: Buffer;
  iterations: number;
}

/** `r=<nonce>,s=<salt in base64>,i=<iterations>`, and nothing else. */
function parseServerFirst(text: string): ServerFirst {
  const attributes = new Attributes(text);
  const nonce = attributes.take('r');
  const salt = decodeBase64(attributes.take('s'));
  const iterations = attributes.take('i');
  if (salt === undefined || salt.length === 0) {
    throw violation('malformed SCRAM message (invalid salt)');
  }
  if (!/^[1-9][0-9]{0,9}$/.test(iterations)) {
    throw violation('malformed SCRAM message (invalid iteration count)');
  }
  if (!attributes.isAtEnd) {
    throw violation('malformed SCRAM message (garbage at end of server-first-message)');
  }
  if (Number(iterations) > SCRAM_ITERATIONS_MAX) {
    throw new WalcadeError(
      SQLSTATE.PROGRAM_LIMIT_EXCEEDED,
      `SCRAM iteration count ${iterations} exceeds the limit of ${SCRAM_ITERATIONS_MAX}`,
      { hint: 'Lower scram_iterations on the upstream and set the password again.' },
    );
  }
  return { nonce, salt, iterations: Number(iterations) };
}

/** The comma-separated attributes of a SCRAM message, which come in a fixed order. */
class Attributes {
  readonly #attributes: string[];

  constructor(text: string) {
    if (text === '') throw violation('malformed SCRAM message (empty message)');
    this.#attributes = text.split(',');
  }

  get isAtEnd(): boolean {
    return this.#attributes.length === 0;
  }

  isNext(name: string): boolean {
    return this.#attributes[0]?.startsWith(`${name}=`) ?? false;
  }

  take(name: string): string {
    if (!this.isNext(name)) {
      throw violation(`malformed SCRAM message (attribute "${name}" expected)`);
    }
    return (this.#attributes.shift() ?? '').slice(2);
  }
}

/** The md5 answer: "md5" and md5(md5(password user) salt), both in hex (crypt.c). */
export function md5Password(user: string, password: string, salt: Uint8Array): string {
  return `md5${md5(Buffer.from(md5(password + user)), salt)}`;
}

function md5(...parts: readonly (string | Uint8Array)[]): string {
  const hash = createHash('md5');
  for (const part of parts) hash.update(part);
  return hash.digest('hex');
}

function hmac(key: Uint8Array, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash('sha256').update(bytes).digest();
}

function randomNonce(): string {
  return randomBytes(NONCE_BYTES).toString('base64');
}

/** undefined unless `text` is base64 as an encoder writes it, padding included. */
function decodeBase64(text: string): Buffer | undefined {
  const bytes = Buffer.from(text, 'base64');
  return bytes.toString('base64') === text ? bytes : undefined;
}

function violation(text: string): WalcadeError {
  return new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, text);
}
