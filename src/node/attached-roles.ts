/**
 * As whom the node comes to its attached server for replication. The server trusts whoever reaches
 * its socket, but the role must be there and may start a WAL sender, and which one that is cannot
 * be asked before somebody is in: it is found by trying, and remembered for as long as the node
 * runs.
 */
import { userInfo } from 'node:os';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from '../protocol/client.ts';

/** Refusals that concern the role: it is not there, may not log in, or may not replicate. */
const REFUSALS: readonly string[] = [
  SQLSTATE.INVALID_AUTHORIZATION,
  SQLSTATE.INSUFFICIENT_PRIVILEGE,
];

/** What initdb calls its superuser where nothing else is said, and what packages call theirs. */
export const USUAL_SUPERUSER = 'postgres';

export class AttachedRoles {
  readonly #connectAs: (role: string, signal: AbortSignal) => Promise<ReplicationClient>;
  #proven: string | undefined;

  constructor(connectAs: (role: string, signal: AbortSignal) => Promise<ReplicationClient>) {
    this.#connectAs = connectAs;
  }

  /**
   * Connects as the first role that is let in: the one that was last, `preferred`, the usual one,
   * our own name. Throws 28000 if none is, and at once what concerns no role.
   */
  async connect(preferred: string, signal: AbortSignal): Promise<ReplicationClient> {
    const refusals: string[] = [];
    for (const role of candidates(this.#proven, preferred)) {
      try {
        const client = await this.#connectAs(role, signal);
        this.#proven = role;
        return client;
      } catch (error) {
        signal.throwIfAborted();
        const { sqlstate, message } = asWalcadeError(error);
        if (!REFUSALS.includes(sqlstate)) throw error;
        refusals.push(`${message}.`);
      }
    }
    throw new WalcadeError(
      SQLSTATE.INVALID_AUTHORIZATION,
      'none of the roles that were tried may replicate from the attached PostgreSQL server',
      {
        detail: refusals.join(' '),
        hint: `Create role "${preferred}" there, with LOGIN and REPLICATION.`,
      },
    );
  }
}

function candidates(proven: string | undefined, preferred: string): ReadonlySet<string> {
  const roles = [preferred, USUAL_SUPERUSER, userInfo().username];
  return new Set(proven === undefined ? roles : [proven, ...roles]);
}
