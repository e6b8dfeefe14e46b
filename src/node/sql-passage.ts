/**
 * The way of one SQL session through the node: what one end says, the other end hears, unchanged.
 *
 * It lives from the startup packet until both ends are closed. A half-close is passed on; when the
 * server's end is gone the client is given what is left and then closed, and when the client's is
 * gone so is the server's. No more is read from an end than the other has taken, so who reads
 * slowly holds the other back and costs one buffer here.
 */
import type { Duplex } from 'node:stream';
import { systemErrorCode } from '../base/errors.ts';
import type { BackendKeyData } from '../protocol/backend-messages.ts';
import { GreetingWatch } from '../protocol/greeting-watch.ts';

export interface SqlPassageOptions {
  client: Duplex;
  server: Duplex;
  /** What the server is told first: the startup packet, and what the client has sent since. */
  opening: Buffer;
  /** Called once: the server has named the session's key, or has ended or begun it without one. */
  onGreeted: (key: BackendKeyData | undefined) => void;
  /** Called once: the client has been given all that is left, and has yet to close. */
  onServerGone: () => void;
}

/** Resolves when both ends are closed, for whatever reason; never rejects. */
export async function passSql({
  client,
  server,
  opening,
  onGreeted,
  onServerGone,
}: SqlPassageOptions): Promise<void> {
  for (const end of [client, server]) end.on('error', () => {});
  readToTheEnd(server);
  const closed = Promise.all([closing(client), closing(server)]);
  server.write(opening);
  watchGreeting(server, onGreeted);
  move(client, server);
  move(server, client);
  whenEnded(client, () => server.end());
  // A server closes altogether; a client may say no more and still listen.
  whenEnded(server, () => server.destroy());
  void closing(client).then(() => server.destroy());
  // A client that is closed while it still speaks is told of a reset, and may lose the last words.
  void closing(server).then(() => {
    client.end();
    client.resume();
    onServerGone();
  });
  client.resume();
  server.resume();
  await closed;
}

/** The key is known here before the client has it. */
function watchGreeting(server: Duplex, onGreeted: SqlPassageOptions['onGreeted']): void {
  const watch = new GreetingWatch();
  const look = (chunk: Buffer): void => {
    const greeting = watch.push(chunk);
    if (greeting.kind === 'greeting') return;
    server.off('data', look);
    onGreeted(greeting.key);
  };
  server.on('data', look);
}

function move(from: Duplex, to: Duplex): void {
  const readOn = (): void => {
    if (to.writableLength === 0 && from.isPaused()) from.resume();
  };
  from.on('data', (chunk: Buffer) => {
    if (to.destroyed) return;
    to.write(chunk, readOn);
    // The operating system takes most writes at once. Until it has, the chunk is in use, and the
    // next read may go into the same memory.
    if (to.writableLength > 0) from.pause();
  });
}

/**
 * A server says why it ends a session and closes, often while its client is sending the next query.
 * A stream is destroyed when a write fails, and the words that wait to be read would be lost with
 * it: so what is written to a server that has gone is dropped, and reading finds the end.
 */
function readToTheEnd(server: Duplex): void {
  const write = server._write.bind(server);
  server._write = (chunk, encoding, done) => {
    write(chunk, encoding, (error) => done(hasGone(error) ? null : error));
  };
  const writeSeveral = server._writev?.bind(server);
  if (writeSeveral === undefined) return;
  server._writev = (chunks, done) => {
    writeSeveral(chunks, (error) => done(hasGone(error) ? null : error));
  };
}

function hasGone(error: Error | null | undefined): boolean {
  const code = error ? systemErrorCode(error) : undefined;
  return code === 'EPIPE' || code === 'ECONNRESET';
}

function whenEnded(stream: Duplex, act: () => void): void {
  if (stream.readableEnded) act();
  else stream.once('end', act);
}

function closing(stream: Duplex): Promise<void> {
  if (stream.destroyed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', () => resolve()));
}
