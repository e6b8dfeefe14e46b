/**
 * Base backups over the replication protocol, as pg_basebackup takes them (manual, "Streaming
 * Replication Protocol", BASE_BACKUP), for machines that have no pg_basebackup: in the form of
 * PostgreSQL 15 and later and in the older one. One call is one connection and one backup.
 * Clusters with tablespaces of their own are refused.
 */
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { chmod, chown, lchown, mkdir, readdir } from 'node:fs/promises';
import { type Socket, connect } from 'node:net';
import { dirname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { extract } from 'tar-stream';
import { type Lsn, parseLsn } from '../../src/wal/lsn.ts';
import { postgresUser } from './postgres-binaries.ts';

export interface BaseBackupOptions {
  port: number;
  host?: string;
  /** `fetch` puts the WAL that the backup needs into it, as `pg_basebackup -X fetch` does. */
  walMethod?: 'none' | 'fetch';
  applicationName?: string;
}

export interface BaseBackup {
  directory: string;
  start: Lsn;
  end: Lsn;
  timeline: number;
}

/** The first major that takes its options as a list and answers by one CopyOut with type bytes. */
const NEW_FORM_MAJOR = 15;

/** Backs up the server at `port` into `directory`, which must not exist. */
export async function takeBaseBackup(
  directory: string,
  { port, host = '127.0.0.1', walMethod = 'none', applicationName }: BaseBackupOptions,
): Promise<BaseBackup> {
  const session = await Session.open(host, port, applicationName ?? 'base_backup');
  try {
    const isNewForm = session.serverMajor >= NEW_FORM_MAJOR;
    session.query(command(isNewForm, walMethod));
    const [[start, timeline] = []] = await session.readResult();
    const tablespaces = await session.readResult();
    if (tablespaces.length !== 1) throw new Error('the cluster has tablespaces of its own');
    await mkdir(directory, { mode: 0o700 });
    await unpack(session.copyOut(isNewForm), directory);
    const [[end] = []] = await session.readResult();
    await session.readUntil('Z');
    await changeOwner(directory);
    return {
      directory,
      start: parseLsn(start ?? ''),
      end: parseLsn(end ?? ''),
      timeline: Number(timeline),
    };
  } finally {
    session.close();
  }
}

function command(isNewForm: boolean, walMethod: 'none' | 'fetch'): string {
  const fetch = walMethod === 'fetch';
  if (!isNewForm) return `BASE_BACKUP LABEL 'test' FAST ${fetch ? 'WAL' : ''} NOWAIT`;
  const wal = fetch ? ', WAL' : '';
  return `BASE_BACKUP ( LABEL 'test', CHECKPOINT 'fast', WAIT 0, MANIFEST 'no'${wal} )`;
}

interface ServerMessage {
  type: string;
  body: Buffer;
}

/** A replication connection that reads one message after the other. */
class Session {
  readonly #socket: Socket;
  readonly #chunks: AsyncIterator<Buffer>;
  #unread: Buffer = Buffer.alloc(0);
  serverMajor = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.#chunks = socket.iterator() as AsyncIterator<Buffer>;
  }

  static async open(host: string, port: number, applicationName: string): Promise<Session> {
    const socket = connect({ host, port });
    await once(socket, 'connect');
    const session = new Session(socket);
    const parameters = {
      user: 'postgres',
      database: 'replication',
      replication: 'true',
      application_name: applicationName,
    };
    const pairs = Object.entries(parameters).flat().join('\0');
    const body = Buffer.from(`\0\x03\0\0${pairs}\0\0`, 'latin1');
    const length = Buffer.alloc(4);
    length.writeInt32BE(4 + body.length);
    socket.write(Buffer.concat([length, body]));
    for (const { type, body: value } of await session.readUntil('Z')) {
      const [name, text = ''] = value.toString('utf8').split('\0');
      if (type === 'S' && name === 'server_version') {
        session.serverMajor = Number.parseInt(text, 10);
      }
    }
    return session;
  }

  query(text: string): void {
    const message = Buffer.from(`Q\0\0\0\0${text}\0`, 'utf8');
    message.writeInt32BE(message.length - 1, 1);
    this.#socket.write(message);
  }

  /** The rows of the next result set, values as text. */
  async readResult(): Promise<string[][]> {
    const messages = await this.readUntil('C');
    return messages.filter(({ type }) => type === 'D').map(({ body }) => decodeRow(body));
  }

  /** All messages up to one of this type, itself included; throws on an error of the server. */
  async readUntil(type: string): Promise<ServerMessage[]> {
    const messages: ServerMessage[] = [];
    for (;;) {
      const message = await this.#next();
      messages.push(message);
      if (message.type === type) return messages;
    }
  }

  /** The bytes of the archive that the next CopyOut carries. */
  async *copyOut(isNewForm: boolean): AsyncGenerator<Buffer> {
    await this.readUntil('H');
    for (;;) {
      const { type, body } = await this.#next();
      if (type === 'c') break;
      if (type !== 'd') throw new Error(`message of type ${type} within the copy`);
      if (!isNewForm) yield body;
      else if (body.toString('latin1', 0, 1) === 'd') yield body.subarray(1);
    }
    // The older form leaves out the two empty blocks that end an archive.
    if (!isNewForm) yield Buffer.alloc(1024);
  }

  close(): void {
    this.#socket.destroy();
  }

  async #next(): Promise<ServerMessage> {
    await this.#fill(5);
    const length = 1 + this.#unread.readInt32BE(1);
    await this.#fill(length);
    const type = this.#unread.toString('latin1', 0, 1);
    const body = this.#unread.subarray(5, length);
    this.#unread = this.#unread.subarray(length);
    if (type === 'E') throw new Error(`server: ${body.toString('utf8').replaceAll('\0', ' ')}`);
    return { type, body };
  }

  async #fill(bytes: number): Promise<void> {
    const parts = [this.#unread];
    let have = this.#unread.length;
    while (have < bytes) {
      const { done, value } = await this.#chunks.next();
      if (done === true) throw new Error('server closed the connection');
      parts.push(value);
      have += value.length;
    }
    if (parts.length > 1) this.#unread = Buffer.concat(parts);
  }
}

function decodeRow(body: Buffer): string[] {
  const values: string[] = [];
  let at = 2;
  for (let column = body.readInt16BE(0); column > 0; column -= 1) {
    const length = body.readInt32BE(at);
    at += 4;
    values.push(body.toString('utf8', at, at + Math.max(0, length)));
    at += Math.max(0, length);
  }
  return values;
}

async function unpack(tar: AsyncIterable<Buffer>, directory: string): Promise<void> {
  const archive = extract();
  const written = (async () => {
    for await (const entry of archive) {
      const { name, type, mode } = entry.header;
      const path = join(directory, name);
      if (type === 'directory') {
        await mkdir(path, { recursive: true, mode: 0o700 });
        entry.resume();
      } else {
        await mkdir(dirname(path), { recursive: true, mode: 0o700 });
        await pipeline(entry, createWriteStream(path, { mode: mode & 0o700 }));
      }
    }
  })();
  await Promise.all([pipeline(tar, archive), written]);
}

/** PostgreSQL's user owns what its server is to run on. */
async function changeOwner(directory: string): Promise<void> {
  await chmod(directory, 0o700);
  const user = await postgresUser();
  if (user === undefined) return;
  await chown(directory, user.uid, user.gid);
  for (const entry of await readdir(directory, { recursive: true })) {
    await lchown(join(directory, entry), user.uid, user.gid);
  }
}
