/**
 * The messages of a base backup as the archives they carry, in both forms: up to PostgreSQL 14 a
 * copy for each archive, since 15 one copy whose messages begin with a type byte.
 *
 * Archives come in the order that was announced, the manifest last; each is to be read to its end
 * before the next is asked for. Nothing is copied: a chunk is valid until the next is asked for.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { BACKEND } from '../protocol/backend-messages.ts';
import { ByteReader } from '../protocol/bytes.ts';
import { errorFromResponse } from '../protocol/error-response.ts';
import type { Message } from '../protocol/message-reader.ts';
import type { BackupForm } from './backup-command.ts';

/** A tablespace's archive, the data directory's if `oid` is undefined; or the manifest. */
export type BackupPart = ArchivePart | ManifestPart;

export interface ArchivePart {
  readonly kind: 'archive';
  readonly oid: string | undefined;
  readonly chunks: AsyncIterable<Buffer>;
}

export interface ManifestPart {
  readonly kind: 'manifest';
  readonly chunks: AsyncIterable<Buffer>;
}

/** The next message of the connection, or the next fragment of one. */
export type NextMessage = () => Promise<Message>;

/** `n` (archive), `d` (data), `p` (progress), `m` (manifest) at the start of a typed message. */
const TYPED = { ARCHIVE: 0x6e, DATA: 0x64, PROGRESS: 0x70, MANIFEST: 0x6d } as const;

const ARCHIVE_NAME_BYTES_MAX = 16 * 1024;

/**
 * The parts of a backup of the tablespaces `oids` and the data directory; ends behind the last
 * CopyDone. Throws the server's error, or 08P01 for what is not such a backup.
 */
export function readBackupParts(
  next: NextMessage,
  { form, oids }: { form: BackupForm; oids: readonly string[] },
): AsyncGenerator<BackupPart> {
  const checked = async (): Promise<Message> => {
    const message = await next();
    if (message.type === BACKEND.ERROR_RESPONSE) throw errorFromResponse(message.body);
    return message;
  };
  const archives = [...oids, undefined];
  return form === 'copy-each' ? readCopies(checked, archives) : readTyped(checked, archives);
}

async function* readCopies(
  next: NextMessage,
  archives: readonly (string | undefined)[],
): AsyncGenerator<BackupPart> {
  for (const oid of archives) {
    await expectCopyOut(next);
    yield { kind: 'archive', oid, chunks: readCopy(next) };
  }
  await expectCopyOut(next);
  yield { kind: 'manifest', chunks: readCopy(next) };
}

async function* readCopy(next: NextMessage): AsyncGenerator<Buffer> {
  for (;;) {
    const { type, body } = await next();
    if (type === BACKEND.COPY_DONE) return;
    if (type !== BACKEND.COPY_DATA) throw unexpected(type);
    yield body;
  }
}

async function* readTyped(
  next: NextMessage,
  archives: readonly (string | undefined)[],
): AsyncGenerator<BackupPart> {
  await expectCopyOut(next);
  const copy = new TypedCopy(next);
  await copy.readHead();
  for (const oid of archives) {
    const name = oid === undefined ? 'base.tar' : `${oid}.tar`;
    copy.expectHead(`archive "${name}"`);
    yield { kind: 'archive', oid, chunks: copy.data() };
  }
  copy.expectHead('manifest');
  yield { kind: 'manifest', chunks: copy.data() };
  copy.expectHead('end');
}

/** The messages of a typed copy: heads, and the data behind each. */
class TypedCopy {
  readonly #next: NextMessage;
  /** What begins behind the data that was read last: `archive "x.tar"`, `manifest` or `end`. */
  #head = '';

  constructor(next: NextMessage) {
    this.#next = next;
  }

  /** Reads what the copy begins with. */
  async readHead(): Promise<void> {
    for await (const chunk of this.data()) {
      throw violation(`Data of ${chunk.length} bytes came before any archive.`);
    }
  }

  expectHead(head: string): void {
    if (this.#head === head) return;
    throw violation(`Expected ${head}, got ${this.#head}.`);
  }

  /** The data up to the next head, which is taken too. */
  async *data(): AsyncGenerator<Buffer> {
    let isData = false;
    for (;;) {
      const message = await this.#next();
      const { type, body, offset } = message;
      if (type === BACKEND.COPY_DONE) {
        this.#head = 'end';
        return;
      }
      if (type !== BACKEND.COPY_DATA) throw unexpected(type);
      if (offset > 0) {
        // A fragment belongs to the message that began before it.
        if (isData) yield body;
        continue;
      }
      isData = body[0] === TYPED.DATA;
      if (isData) {
        if (body.length > 1) yield body.subarray(1);
      } else if (body[0] === TYPED.ARCHIVE) {
        this.#head = `archive "${await this.#archiveName(message)}"`;
        return;
      } else if (body[0] === TYPED.MANIFEST) {
        this.#head = 'manifest';
        return;
      } else if (body[0] !== TYPED.PROGRESS) {
        throw violation(`A message in the copy begins with byte ${body[0] ?? 'none'}.`);
      }
    }
  }

  /** Of an archive's message, which may come in fragments, the archive's name. */
  async #archiveName({ body, bodyBytes }: Message): Promise<string> {
    if (bodyBytes > ARCHIVE_NAME_BYTES_MAX) {
      throw violation(`The name of an archive has ${bodyBytes} bytes.`);
    }
    const parts = [Buffer.from(body)];
    for (let have = body.length; have < bodyBytes; ) {
      const fragment = await this.#next();
      if (fragment.offset !== have) throw unexpected(fragment.type);
      parts.push(Buffer.from(fragment.body));
      have += fragment.body.length;
    }
    const reader = new ByteReader(Buffer.concat(parts), 'd', 3);
    reader.uint8();
    const name = reader.cstring();
    // Its tablespace's location follows, which the list of tablespaces has given already.
    reader.cstring();
    reader.end();
    return name;
  }
}

async function expectCopyOut(next: NextMessage): Promise<void> {
  const { type } = await next();
  if (type !== BACKEND.COPY_OUT_RESPONSE) throw unexpected(type);
}

function unexpected(type: number): WalcadeError {
  const shown = `0x${type.toString(16).padStart(2, '0')}`;
  return new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    `unexpected message type ${shown} during a base backup`,
  );
}

function violation(detail: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.PROTOCOL_VIOLATION,
    'base backup is not sent as the protocol says',
    { detail },
  );
}
