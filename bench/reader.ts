/**
 * A process that receives one range of WAL on many connections and throws it away, as cheaply as
 * it can: all connections read into one buffer, and bodies are not looked at, only counted. Once
 * all have reached the end it says what that took, as JSON, and stays connected until its standard
 * input closes, so that the senders can be measured.
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
import { INVALID_LSN, type Lsn, advance, parseLsn } from '../src/wal/lsn.ts';

const READ_BYTES = 256 * 1024;

const [port, readers, start = '', end = ''] = process.argv.slice(2);
const target = parseLsn(end);
const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
const sockets: net.Socket[] = [];

/** One connection: resolves once it has received everything before `target`. */
function receive(number: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const reader = new MessageReader({
      bodyBytesMax: () => 0x3fff_ffff,
      copyDataHeadBytes: WAL_DATA_HEADER_BYTES,
    });
    const messages: Message[] = [];
    let isAsked = false;
    let reached: Lsn = parseLsn(start);
    let walBytesLeft = 0;
    const take = ({ type, body, offset, bodyBytes }: Message): void => {
      if (type === BACKEND.READY_FOR_QUERY && !isAsked) {
        socket.write(encodeQuery(`START_REPLICATION ${start} TIMELINE 1`));
        isAsked = true;
      }
      if (type === BACKEND.ERROR_RESPONSE) reject(new Error(body.toString('latin1')));
      if (type === BACKEND.COPY_BOTH_RESPONSE && reached >= target) resolve();
      if (type !== BACKEND.COPY_DATA) return;
      if (offset > 0) {
        walBytesLeft -= body.length;
      } else if (body[0] === REPLICATION_MESSAGE.WAL_DATA) {
        const header = decodeWalDataHeader(body);
        walBytesLeft = bodyBytes - body.length;
        reached = advance(header.start, bodyBytes - WAL_DATA_HEADER_BYTES);
      } else if (decodeKeepalive(body).replyRequested) {
        socket.write(acknowledge(reached));
      }
      if (walBytesLeft === 0 && reached >= target) resolve();
    };
    const onread = {
      buffer,
      callback: (length: number): boolean => {
        reader.push(buffer.subarray(0, length), messages);
        for (const message of messages) take(message);
        messages.length = 0;
        return true;
      },
    };
    const socket = net.connect({ host: '127.0.0.1', port: Number(port), onread });
    sockets.push(socket);
    socket.on('error', reject);
    socket.on('connect', () => {
      const name = `bench${number}`;
      socket.write(
        encodeStartup({ user: 'postgres', replication: 'true', application_name: name }),
      );
    });
  });
}

function acknowledge(position: Lsn): Buffer {
  return encodeStatusUpdate({
    write: position,
    flush: position,
    apply: INVALID_LSN,
    sentAt: 0n,
    replyRequested: false,
  });
}

process.stdin.on('close', () => {
  for (const socket of sockets) socket.end(encodeTerminate());
});
process.stdin.resume();
const began = performance.now();
const cpuBefore = process.cpuUsage();
await Promise.all(Array.from({ length: Number(readers) }, (_, number) => receive(number)));
const { user, system } = process.cpuUsage(cpuBefore);
const seconds = (performance.now() - began) / 1000;
process.stdout.write(`${JSON.stringify({ seconds, cpuSeconds: (user + system) / 1e6 })}\n`);
