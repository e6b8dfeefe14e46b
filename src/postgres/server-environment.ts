/**
 * The environment of the attached server and of what runs beside it: the node's, but nothing of
 * PostgreSQL's clients, of the language of who started the node, or of root's home.
 */
import type { ServerUser } from './server-user.ts';

/** PGDATA, PGPORT, PGPASSFILE, PGSSLMODE, … would reach the server or its WAL receiver's libpq. */
const REMOVED = /^(?:PG|LC_|LANG)/;
const REMOVED_FOR_ANOTHER_USER = /^(?:HOME|USER|LOGNAME|MAIL|SHELL|XDG_.*)$/;

/** `environment` for a server that `user` runs; undefined for the user of this process. */
export function serverEnvironment(
  environment: NodeJS.ProcessEnv,
  user: ServerUser | undefined,
): Record<string, string> {
  const kept = Object.entries(environment).filter(
    (entry): entry is [string, string] =>
      entry[1] !== undefined &&
      !REMOVED.test(entry[0]) &&
      !(user !== undefined && REMOVED_FOR_ANOTHER_USER.test(entry[0])),
  );
  const locale = process.platform === 'darwin' ? 'C' : 'C.UTF-8';
  return { ...Object.fromEntries(kept), LC_ALL: locale };
}
