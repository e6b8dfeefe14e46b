/**
 * Tasks that live and die together: when one ends, however it ends, the others are asked to
 * stop and awaited. Nothing outlives the call.
 */

export type Task = (signal: AbortSignal) => Promise<void>;

/** Why the others of a group are asked to stop: one of them has ended. */
export class GroupEnded extends Error {
  override readonly name = 'GroupEnded';
}

/**
 * Runs `tasks` until the first of them ends, then stops and awaits the rest. Rejects with what
 * the first one rejected with; what others throw on their way out is consequence, not cause.
 */
export async function endTogether(signal: AbortSignal, tasks: readonly Task[]): Promise<void> {
  const group = new AbortController();
  const stop = (): void => group.abort(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener('abort', stop, { once: true });
  let first: { error?: unknown } | undefined;
  const ended = (outcome: { error?: unknown }): void => {
    first ??= outcome;
    group.abort(new GroupEnded('another task of the group has ended'));
  };
  await Promise.all(
    tasks.map((task) =>
      task(group.signal).then(
        () => ended({}),
        (error: unknown) => ended({ error }),
      ),
    ),
  );
  signal.removeEventListener('abort', stop);
  if (first !== undefined && 'error' in first) throw first.error;
}

/** What a task awaits that has nothing left to do: rejects with the signal's reason. */
export function untilAborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    if (signal.aborted) reject(signal.reason as Error);
    else signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true });
  });
}
