/**
 * What asks a running node over its control socket; each call lasts as long as its answer takes.
 */
import http from 'node:http';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import type { ActionOutcome, PromoteRequest, ReloadOutcome } from './control-socket.ts';
import type { FollowOutcome } from './follow-outcome.ts';
import type { NodeStatus } from './node-status.ts';

const REQUEST_TIMEOUT_MS = 10_000;
/** Longer than a node looks at an upstream that does not answer. */
const FOLLOW_TIMEOUT_MS = 90_000;

/** Asks a running node for its status; throws 08001 when none answers on `path`. */
export async function readStatus(path: string): Promise<NodeStatus> {
  return (await ask(path, 'GET', '/status')) as NodeStatus;
}

/** Has a running node read its configuration again; throws 08001 when none answers on `path`. */
export async function requestReload(path: string): Promise<ReloadOutcome> {
  return (await ask(path, 'POST', '/reload')) as ReloadOutcome;
}

/**
 * Has a running node promoted, which may take as long as `request` says; throws as above.
 * `onAsked` is called once there is a node that is asked.
 */
export async function requestPromotion(
  path: string,
  { force, timeoutMs }: PromoteRequest,
  onAsked: () => void = () => {},
): Promise<ActionOutcome> {
  const url = `/promote?force=${force}&timeout=${timeoutMs}`;
  const options = { timeoutMs: REQUEST_TIMEOUT_MS + timeoutMs, onAsked };
  return (await ask(path, 'POST', url, options)) as ActionOutcome;
}

/** Has a running node follow the upstream that `conninfo` names; throws as above. */
export async function requestFollow(path: string, conninfo: string): Promise<FollowOutcome> {
  const url = `/follow?conninfo=${encodeURIComponent(conninfo)}`;
  return (await ask(path, 'POST', url, { timeoutMs: FOLLOW_TIMEOUT_MS })) as FollowOutcome;
}

async function ask(
  path: string,
  method: string,
  url: string,
  {
    timeoutMs = REQUEST_TIMEOUT_MS,
    onAsked = () => {},
  }: { timeoutMs?: number; onAsked?: () => void } = {},
): Promise<unknown> {
  const body = await new Promise<string>((resolve, reject) => {
    const request = http.request(
      // A connection of its own: one that was kept may be closed by a node that stops.
      { agent: false, socketPath: path, method, path: url, timeout: timeoutMs },
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
    request.on('socket', (socket) => socket.once('connect', onAsked));
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
