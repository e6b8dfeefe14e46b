/**
 * Asking a running node over its control socket. The socket is tried first: whether anybody has the
 * node's lock is only of interest when nobody answers, and takes native code to find out.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { CONTROL_SOCKET, checkNodeDirectory } from '../node/node-directory.ts';

/** What came of asking: the answer, or that no node is running. */
export type Asked<Answer> = { kind: 'answered'; answer: Answer } | { kind: 'stopped' };

/**
 * Has `ask` ask the node in `directory`, which becomes the working directory. Throws 58P01 if there
 * is no node, and 08001 if one is running that does not answer.
 */
export async function askIfRunning<Answer>(
  directory: string,
  ask: (socketPath: string) => Promise<Answer>,
): Promise<Asked<Answer>> {
  await checkNodeDirectory(directory);
  // A socket's path must be short.
  process.chdir(directory);
  try {
    return { kind: 'answered', answer: await ask(CONTROL_SOCKET) };
  } catch (error) {
    const { runningPid } = await import('../node/node-lock.ts');
    if ((await runningPid('.')) === undefined) return { kind: 'stopped' };
    throw error;
  }
}

/** As `askIfRunning`, for what only a running node can answer: throws 55000 when it is stopped. */
export async function askRunning<Answer>(
  directory: string,
  ask: (socketPath: string) => Promise<Answer>,
): Promise<Answer> {
  const asked = await askIfRunning(directory, ask);
  if (asked.kind === 'stopped') throw notRunning(directory);
  return asked.answer;
}

export function notRunning(
  directory: string,
  { detail, hint }: { detail?: string; hint?: string } = {},
): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `no node is running in "${directory}"`,
    { detail, hint },
  );
}
