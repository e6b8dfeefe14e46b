/** What must hold of a data directory before a command makes it, or keeps it, a node's. */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { runningServer } from '../postgres/postmaster-pid.ts';
import type { UpstreamFacts } from './upstream-facts.ts';

/** Throws 55006 if a server runs in it. */
export async function checkStopped(dataDirectory: string): Promise<void> {
  const running = await runningServer(dataDirectory);
  if (running === undefined) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_IN_USE,
    `data directory "${dataDirectory}" is in use by a running server (PID ${running.pid})`,
    { hint: 'Stop it first, with "pg_ctl stop".' },
  );
}

/** Throws 55000 unless `major`, that of the data directory, is the upstream's. */
export function checkSameMajor(major: number, upstream: Pick<UpstreamFacts, 'major'>): void {
  if (major === upstream.major) return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `data directory is of PostgreSQL ${major}, the upstream is PostgreSQL ${upstream.major}`,
    { hint: 'WAL can be replayed by the same major version only.' },
  );
}
