/**
 * The control socket in the node's directory: HTTP over a Unix socket that only the directory's
 * owner can reach. `GET /status` answers the node's status as JSON, `POST /reload` has it read its
 * configuration files again and answers what came of it.
 *
 * The server lives as long as the node; the client's call as long as its answer takes.
 */
import { chmod, rm } from 'node:fs/promises';
import http from 'node:http';
import { SQLSTATE, WalcadeError, asWalcadeError, describeSystemError } from '../base/errors.ts';
import { checkSocketPath } from '../protocol/network.ts';
import type { NodeStatus } from './node-status.ts';

const REQUEST_TIMEOUT_MS = 10_000;

export interface ControlServer {
  close(): Promise<void>;
}

/** What came of a reload. With an error, everything stays as it was. */
export interface ReloadOutcome {
  error: { message: string; detail: string | undefined; hint: string | undefined } | null;
  /** Parameters that have changed in the file and not in the node. */
  needRestart: string[];
}

export interface ControlActions {
  status: () => NodeStatus;
  reload: () => Promise<ReloadOutcome>;
}

/** Serves `actions` on Unix socket `path`; who holds the node's lock may replace a stale one. */
export async function serveControl(path: string, actions: ControlActions): Promise<ControlServer> {
  checkSocketPath(path);
  await rm(path, { force: true });
  const server = http.createServer((request, response) => {
    const answer = (code: number, body: unknown): void => {
      response.writeHead(code, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    const act = async (): Promise<void> => {
      const asked = `${request.method} ${request.url}`;
      if (asked === 'GET /status') answer(200, actions.status());
      else if (asked === 'POST /reload') answer(200, await actions.reload());
      else answer(404, { error: 'not found' });
    };
    // A question that goes wrong must not end the node that was asked.
    act().catch((error: unknown) => answer(500, { error: asWalcadeError(error).message }));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => resolve());
  });
  // A connection that cannot be accepted (no descriptors left, say) is no end of the node.
  server.on('error', () => {});
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
  return (await ask(path, 'GET', '/status')) as NodeStatus;
}

/** Has a running node read its configuration again; throws 08001 when none answers on `path`. */
export async function requestReload(path: string): Promise<ReloadOutcome> {
  return (await ask(path, 'POST', '/reload')) as ReloadOutcome;
}

async function ask(path: string, method: string, url: string): Promise<unknown> {
  const body = await new Promise<string>((resolve, reject) => {
    const request = http.request(
      { socketPath: path, method, path: url, timeout: REQUEST_TIMEOUT_MS },
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
    request.end();
  }).catch((error: unknown) => {
    throw new WalcadeError(
      SQLSTATE.UNABLE_TO_CONNECT,
      `could not connect to control socket "${path}": ${describeSystemError(error)}`,
      { hint: 'Is the node starting, or stopping? Try again in a moment.' },
    );
  });
  return JSON.parse(body) as unknown;
}
