/**
 * The control socket in the node's directory: HTTP over a Unix socket that only the directory's
 * owner can reach. `GET /status` answers the node's status as JSON.
 *
 * The server lives as long as the node; the client's call as long as its answer takes.
 */
import { chmod, rm } from 'node:fs/promises';
import http from 'node:http';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { checkSocketPath } from '../protocol/network.ts';
import type { NodeStatus } from './node-status.ts';

const REQUEST_TIMEOUT_MS = 10_000;

export interface ControlServer {
  close(): Promise<void>;
}

/** Serves `status` on the Unix socket `path`; who holds the node's lock may replace a stale one. */
export async function serveControl(path: string, status: () => NodeStatus): Promise<ControlServer> {
  checkSocketPath(path);
  await rm(path, { force: true });
  const server = http.createServer((request, response) => {
    const isStatus = request.method === 'GET' && request.url === '/status';
    response.writeHead(isStatus ? 200 : 404, { 'content-type': 'application/json' });
    response.end(isStatus ? JSON.stringify(status()) : '{"error":"not found"}');
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
  await chmod(path, 0o600);
  return {
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** Asks a running node for its status; throws 08001 when none answers on `path`. */
export async function readStatus(path: string): Promise<NodeStatus> {
  const body = await new Promise<string>((resolve, reject) => {
    const request = http.get(
      { socketPath: path, path: '/status', timeout: REQUEST_TIMEOUT_MS },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
        });
        response.on('end', () => resolve(text));
        response.on('error', reject);
      },
    );
    request.on('timeout', () => request.destroy(new Error('Connection timed out')));
    request.on('error', reject);
  }).catch((error: unknown) => {
    throw new WalcadeError(
      SQLSTATE.UNABLE_TO_CONNECT,
      `could not connect to control socket "${path}": ${describeSystemError(error)}`,
      { hint: 'Is the node running?' },
    );
  });
  return JSON.parse(body) as NodeStatus;
}
