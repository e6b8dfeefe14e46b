/**
 * Looks at what a server says to somebody else's client until it has named the key with which the
 * session can be cancelled. It keeps nothing but the beginning of a message, changes nothing, and
 * what it cannot read ends the watch, not the session.
 *
 * It lives until it has answered `over`: at the key, at the server's error, or at its readiness.
 */
import { type BackendKeyData, decodeBackendKeyData } from './backend-messages.ts';
import { type Message, MessageReader } from './message-reader.ts';
import { BACKEND } from './message-type.ts';

export type Greeting = { kind: 'greeting' } | { kind: 'over'; key: BackendKeyData | undefined };

/** More than any setting that a server reports of itself. */
const BODY_BYTES_MAX = 64 * 1024;

const LAST_OF_GREETING = new Set<number>([
  BACKEND.BACKEND_KEY_DATA,
  BACKEND.ERROR_RESPONSE,
  BACKEND.READY_FOR_QUERY,
]);

export class GreetingWatch {
  readonly #reader = new MessageReader({ bodyBytesMax: () => BODY_BYTES_MAX });

  /** Looks at the next bytes from the server. The key that is given is a copy. */
  push(chunk: Buffer): Greeting {
    const messages: Message[] = [];
    const isReadable = this.#read(chunk, messages);
    const last = messages.find(({ type }) => LAST_OF_GREETING.has(type));
    if (last === undefined && isReadable) return { kind: 'greeting' };
    return { kind: 'over', key: last === undefined ? undefined : keyOf(last) };
  }

  /** Appends the messages that `chunk` completes; false if what follows them is no message. */
  #read(chunk: Buffer, messages: Message[]): boolean {
    try {
      this.#reader.push(chunk, messages);
      return true;
    } catch {
      return false;
    }
  }
}

function keyOf({ type, body }: Message): BackendKeyData | undefined {
  if (type !== BACKEND.BACKEND_KEY_DATA) return undefined;
  try {
    return decodeBackendKeyData(Buffer.from(body));
  } catch {
    return undefined;
  }
}
