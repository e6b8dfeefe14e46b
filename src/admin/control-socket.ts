/**
 * The control socket in the node's directory: HTTP over a Unix socket that only the directory's
 * owner can reach. `GET /status` answers the node's status as JSON, `POST /reload` has it read its
 * configuration files again, `POST /promote` promotes it, `POST /follow` has it follow another
 * upstream; they answer what came of it. It lives as long as the node.
 */
import { chmod, rm } from 'node:fs/promises';
import http from 'node:http';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { checkSocketPath } from '../protocol/network.ts';
import type { FollowOutcome } from './follow-outcome.ts';
import type { NodeStatus } from './node-status.ts';

export interface ControlServer {
  close(): Promise<void>;
}

/** What came of something that a node was asked to do. */
export interface ActionOutcome {
  error: { message: string; detail: string | undefined; hint: string | undefined } | null;
}

/** Of a reload. With an error, everything stays as it was. */
export interface ReloadOutcome extends ActionOutcome {
  /** Parameters that have changed in the file and not in the node. */
  needRestart: string[];
}

/** How a node is to be promoted. */
export interface PromoteRequest {
  /** Also if it is behind its upstream. */
  force: boolean;
  /** How long all of it may take. */
  timeoutMs: number;
}

export interface ControlActions {
  status: () => NodeStatus;
  reload: () => Promise<ReloadOutcome>;
  promote: (request: PromoteRequest) => Promise<ActionOutcome>;
  /** `signal` aborts when nobody waits for the answer any more. */
  follow: (conninfo: string, signal: AbortSignal) => Promise<FollowOutcome>;
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
      const { pathname, searchParams } = new URL(request.url ?? '', 'http://node');
      const asked = `${request.method} ${pathname}`;
      if (asked === 'GET /status') answer(200, actions.status());
      else if (asked === 'POST /reload') answer(200, await actions.reload());
      else if (asked === 'POST /promote') {
        answer(200, await actions.promote(readPromoteRequest(searchParams)));
      } else if (asked === 'POST /follow') {
        const conninfo = searchParams.get('conninfo') ?? '';
        answer(200, await actions.follow(conninfo, untilClosed(response)));
      } else answer(404, { error: 'not found' });
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

/** Aborts when the connection is closed before it was answered. */
function untilClosed(response: http.ServerResponse): AbortSignal {
  const closed = new AbortController();
  response.once('close', () => closed.abort(new Error('nobody waits for the answer')));
  return closed.signal;
}

function readPromoteRequest(parameters: URLSearchParams): PromoteRequest {
  const timeoutMs = Number(parameters.get('timeout'));
  if (Number.isInteger(timeoutMs) && timeoutMs > 0) {
    return { force: parameters.get('force') === 'true', timeoutMs };
  }
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    `invalid timeout "${parameters.get('timeout')}"`,
  );
}

/** What came of `action`, which gives nothing. */
export async function outcomeOf(action: Promise<void>): Promise<ActionOutcome> {
  try {
    await action;
    return { error: null };
  } catch (error) {
    return { error: refusal(error) };
  }
}

/** An error as an outcome has it. */
export function refusal(error: unknown): NonNullable<ActionOutcome['error']> {
  const { message, detail, hint } = asWalcadeError(error);
  return { message, detail, hint };
}
