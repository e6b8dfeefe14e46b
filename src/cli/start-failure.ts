/**
 * Why a node did not start, as its log tells it, or is not ready yet, as it tells itself: as an
 * error of its own.
 */
import type { ServerStatus } from '../admin/node-status.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

const ENTRY = /^\S+ \S+ UTC \[(\d+)\] (FATAL|DETAIL|HINT): {2}(.*(?:\n\t.*)*)$/gm;
const TAIL_LINES = 20;

/**
 * The error for a node, process `pid`, that ended before it was ready: `said` is what was written
 * into the log at `path`, by its attached server too. Without a FATAL entry of the node's own the
 * end of the log is the detail.
 */
export function startFailure(
  said: string,
  { path, pid }: { path: string; pid: number | undefined },
): WalcadeError {
  const entries = [...said.matchAll(ENTRY)]
    .filter(([, process]) => process === String(pid))
    .map(([, , label = '', text = '']) => ({ label, text: text.replaceAll('\n\t', '\n') }));
  const last = entries.findLastIndex(({ label }) => label === 'FATAL');
  const fatal = entries[last];
  if (fatal === undefined) {
    const tail = said.trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
    return new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, 'could not start node', {
      detail: tail === '' ? 'It ended without a word.' : `Its log ends with:\n${tail}`,
      hint: `Examine the log "${path}".`,
    });
  }
  const after = entries.slice(last + 1);
  const field = (label: string): string | undefined =>
    after.find((entry) => entry.label === label)?.text;
  return new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, `could not start node: ${fatal.text}`, {
    detail: field('DETAIL'),
    hint: field('HINT') ?? `Examine the log "${path}".`,
  });
}

/**
 * The error for a node that runs and is not ready in time. What its attached server said last is
 * told, which the node goes on starting whatever that is.
 */
export function notReadyYet(
  server: ServerStatus | null,
  { timeoutSeconds, path }: { timeoutSeconds: number; path: string },
): WalcadeError {
  return new WalcadeError(
    SQLSTATE.CANNOT_CONNECT_NOW,
    `node is not ready after ${timeoutSeconds} s`,
    { detail: `${waitsFor(server)}It goes on starting.`, hint: `Examine the log "${path}".` },
  );
}

function waitsFor(server: ServerStatus | null): string {
  if (server === null || server.state === 'ready') return '';
  const { state, reason } = server;
  const said = reason === null ? '' : ` Its status says: ${reason}`;
  return `WAL is served; the attached PostgreSQL server is ${state}.${said}\n`;
}
