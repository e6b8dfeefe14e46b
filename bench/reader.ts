/**
 * A process that receives one range of WAL on many connections and throws it away, as cheaply as
 * it can: bodies are not looked at, only counted. It says when all have reached the end, and stays
 * connected until its standard input closes, so that the senders can be measured.
 *
 *   node --import tsx bench/reader.ts PORT READERS START END
 */
import net from 'node:net';
import { encodeQuery, encodeTerminate } from '../src/protocol/frontend-messages.ts';
import { type Message, MessageReader } from '../src/protocol/message-reader.ts';
import { BACKEND } from '../src/protocol/message-type.ts';
import {
  REPLICATION_MESSAGE,
  WAL_DATA_HEADER_BYTES,
  decodeKeepalive,
  decodeWalDataHeader,
  encodeStatusUpdate,
} from '../src/protocol/replication-messages.ts';
import { encodeStartup } from '../src/protocol/startup.ts';
import { INVALID_LSN, type Lsn, parseLsn } from '../src/wal/lsn.ts';

const [port, readers, start, end] = process.argv.slice(2);
const target = parseLsn(end ?? '');

const sockets: net.Socket[] = [];

/** One connection: resolves once it has received everything before `target`. */
function receive(number: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const reader = new MessageReader({
      bodyBytesMax: () => 0x3fff_ffff,
      copyDataHeadBytes: WAL_DATA_HEADER_BYTES,
    });
    const messages: Message[] = [];
    let isStreaming = false;
    let reached: Lsn = INVALID_LSN;
    let walBytesLeft = 0;
    const take = ({ type, body, offset, bodyBytes }: Message): void => {
      if (type === BACKEND.READY_FOR_QUERY && !isStreaming) {
        socket.write(encodeQuery(`START_REPLICATION ${start} TIMELINE 1`));
        isStreaming = true;
      }
      if (type === BACKEND.ERROR_RESPONSE) reject(new Error(body.toString('latin1')));
      if (type !== BACKEND.COPY_DATA) return;
      if (offset > 0) {
        walBytesLeft -= body.length;
      } else if (body[0] === REPLICATION_MESSAGE.WAL_DATA) {
        const header = decodeWalDataHeader(body);
        walBytesLeft = bodyBytes - body.length;
        reached = (header.start + BigInt(bodyBytes - WAL_DATA_HEADER_BYTES)) as Lsn;
      } else if (decodeKeepalive(body).replyRequested) {
        socket.write(
          encodeStatusUpdate({
            write: reached,
            flush: reached,
            apply: INVALID_LSN,
            sentAt: 0n,
            replyRequested: false,
          }),
        );
      }
      if (walBytesLeft === 0 && reached >= target) resolve();
    };
    const socket = net.connect({ host: '127.0.0.1', port: Number(port) });
    sockets.push(socket);
    socket.on('data', (chunk: Buffer) => {
      reader.push(chunk, messages);
      for (const message of messages.splice(0)) take(message);
    });
    socket.on('error', reject);
    socket.on('connect', () => {
      const name = `bench${number}`;
      socket.write(
        encodeStartup({ user: 'postgres', replication: 'true', application_name: name }),
      );
    });
  });
}

process.stdin.on('close', () => {
  for (const socket of sockets) socket.end(encodeTerminate());
});
process.stdin.resume();
await Promise.all(Array.from({ length: Number(readers) }, (_, number) => receive(number)));
process.stdout.write('reached\n');
