/**
 * The one door to the network: connections out, and listening on TCP ports and Unix sockets.
 *
 * Sockets are handed out as Duplex streams, so that TLS, a simulator or a test's pair of streams
 * can stand in for them.
 */
import { lookup } from 'node:dns/promises';
import { unlink } from 'node:fs/promises';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';

export interface ServerAddress {
  /** A host name or IP address, or a Unix socket's directory if it begins with `/`. */
  readonly host: string;
  readonly port: number;
}

/** Where a connection that was accepted comes from. */
export type PeerAddress =
  | { readonly transport: 'local' }
  | {
      readonly transport: 'tcp';
      readonly address: string;
      readonly port: number;
      readonly localAddress: string;
    };

export interface Listener {
  /** Stops accepting; connections that exist go on. */
  close(): void;
}

export interface Network {
  /**
   * Resolves once connected. What the stream gives is valid until it is asked to read on: who keeps
   * bytes copies them, and pauses the stream meanwhile. Rejects with 08001 naming the address, or
   * with the signal's reason.
   */
  connect(address: ServerAddress, signal: AbortSignal): Promise<Duplex>;
  /** Rejects with 55006 naming the address if it is taken. A stale Unix socket is replaced. */
  listen(address: ServerAddress, options: ListenOptions): Promise<Listener>;
  /** The IP addresses of a host name; throws 08001 if it has none. */
  resolve(host: string): Promise<string[]>;
}

export interface ListenOptions {
  /** Who takes the socket closes it: a peer that has said its last may still listen. */
  accept: (socket: Duplex, peer: PeerAddress) => void;
  /** Permissions of a Unix socket. */
  mode: number;
}

/** The file of a server's Unix socket in `directory` (PostgreSQL's UNIXSOCK_PATH). */
export function unixSocketPath(directory: string, port: number): string {
  return `${directory}/.s.PGSQL.${port}`;
}

export function describeAddress({ host, port }: ServerAddress): string {
  return host.startsWith('/') ? unixSocketPath(host, port) : `${host}:${port}`;
}

/** A server as libpq names it when a connection to it fails. */
export function describeServer({ host, port }: ServerAddress): string {
  return host.startsWith('/')
    ? `server on socket "${unixSocketPath(host, port)}"`
    : `server at "${host}", port ${port}`;
}

export function describePeer(peer: PeerAddress): string {
  return peer.transport === 'local' ? '[local]' : `${peer.address}(${peer.port})`;
}

export const UNIX_SOCKET_PATH_BYTES_MAX = 107;

/** Throws unless the socket's path fits the operating system's limit. */
export function checkSocketPath(path: string): void {
  if (Buffer.byteLength(path) <= UNIX_SOCKET_PATH_BYTES_MAX) return;
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    `Unix-domain socket path "${path}" is too long (maximum ${UNIX_SOCKET_PATH_BYTES_MAX} bytes)`,
  );
}

/**
 * Every read of a connection that we open goes into one buffer of this size: a stream of WAL would
 * otherwise cost an allocation for each read, and their collection half as much as its proof.
 */
const READ_BYTES = 256 * 1024;

function connect(address: ServerAddress, signal: AbortSignal): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error);
    const { host, port } = address;
    const onread = {
      buffer: Buffer.allocUnsafeSlow(READ_BYTES),
      callback: (length: number, buffer: Uint8Array): boolean => {
        socket.emit('data', Buffer.from(buffer.buffer, buffer.byteOffset, length));
        return !socket.isPaused();
      },
    };
    const socket = host.startsWith('/')
      ? net.connect({ path: unixSocketPath(host, port), onread })
      : net.connect({ host, port, noDelay: true, keepAlive: true, onread });
    const onAbort = (): void => {
      socket.destroy();
      reject(signal.reason as Error);
    };
    const onError = (error: Error): void => {
      signal.removeEventListener('abort', onAbort);
      reject(connectionRefusal(address, error));
    };
    signal.addEventListener('abort', onAbort, { once: true });
    socket.once('error', onError);
    socket.once('connect', () => {
      signal.removeEventListener('abort', onAbort);
      socket.off('error', onError);
      resolve(socket);
    });
  });
}

function connectionRefusal(address: ServerAddress, error: Error): WalcadeError {
  return new WalcadeError(
    SQLSTATE.UNABLE_TO_CONNECT,
    `connection to ${describeServer(address)} failed: ${describeSystemError(error)}`,
    {
      hint: address.host.startsWith('/')
        ? 'Is the server running locally and accepting connections on that socket?'
        : 'Is the server running on that host and accepting TCP/IP connections?',
    },
  );
}

async function listen(address: ServerAddress, options: ListenOptions): Promise<Listener> {
  const { host, port } = address;
  if (!host.startsWith('/')) return bind(address, { host, port, backlog: BACKLOG }, options);
  const path = unixSocketPath(host, port);
  checkSocketPath(path);
  await removeStaleSocket(path);
  return bind(address, { path, backlog: BACKLOG }, options);
}

const BACKLOG = 1024;

function bind(
  address: ServerAddress,
  where: net.ListenOptions,
  { accept, mode }: ListenOptions,
): Promise<Listener> {
  const socketOptions = { allowHalfOpen: true, noDelay: true, keepAlive: true };
  const server = net.createServer(socketOptions, (socket) => {
    // Who takes the connection over adds a listener of its own; a reset before that is no event.
    socket.on('error', () => {});
    accept(socket, 'path' in where ? { transport: 'local' } : tcpPeer(socket));
  });
  return new Promise((resolve, reject) => {
    server.once('error', (error) => reject(listenRefusal(address, error)));
    withPermissions(mode, () => {
      server.listen({ ...where, ipv6Only: true }, () => {
        // From here on an error is a connection that was not accepted, and no end of listening.
        server.on('error', () => {});
        resolve({ close: () => void server.close() });
      });
    });
  });
}

/**
 * What `make` makes at once has exactly the permissions `mode`, as a Unix socket that is bound.
 * Changed afterwards by its name, they could be those of another file: the directory may be another
 * user's, who has put a link there.
 */
function withPermissions(mode: number, make: () => void): void {
  const before = process.umask(0o777 & ~mode);
  try {
    make();
  } finally {
    process.umask(before);
  }
}

/** A socket file that nobody listens on is left over from a crash. */
async function removeStaleSocket(path: string): Promise<void> {
  const isStale = await new Promise<boolean>((resolve) => {
    const probe = net.connect({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(false);
    });
    probe.once('error', (error) => resolve(systemErrorCode(error) === 'ECONNREFUSED'));
  });
  if (isStale) await unlink(path);
}

function listenRefusal({ host, port }: ServerAddress, error: Error): WalcadeError {
  const why = describeSystemError(error);
  const where = host.startsWith('/')
    ? `Unix address "${unixSocketPath(host, port)}"`
    : `address "${host}", port ${port}`;
  const isTaken = systemErrorCode(error) === 'EADDRINUSE';
  return new WalcadeError(
    isTaken ? SQLSTATE.OBJECT_IN_USE : SQLSTATE.IO_ERROR,
    `could not bind ${where}: ${why}`,
    {
      hint: isTaken ? `Is another server already running on port ${port}?` : undefined,
      cause: error,
    },
  );
}

function tcpPeer(socket: net.Socket): PeerAddress {
  return {
    transport: 'tcp',
    address: socket.remoteAddress ?? '',
    port: socket.remotePort ?? 0,
    localAddress: socket.localAddress ?? '',
  };
}

async function resolveHost(host: string): Promise<string[]> {
  try {
    const found = await lookup(host, { all: true });
    return [...new Set(found.map(({ address }) => address))];
  } catch (error) {
    throw new WalcadeError(
      SQLSTATE.UNABLE_TO_CONNECT,
      `could not translate host name "${host}" to address: ${describeSystemError(error)}`,
    );
  }
}

export const systemNetwork: Network = { connect, listen, resolve: resolveHost };
