/**
 * Answers the attached server's restore_command, which asks before it copies WAL of the node's: at
 * once as a rule, but while the server is promoted only when nothing more is to come and all is
 * written. The server takes the end of what it copies for the end of its timeline; a downstream
 * that had been sent more could not follow it there. It lives as long as the node runs, also if it
 * cannot answer: the server goes on after a while.
 */
import { type FSWatcher, watch } from 'node:fs';
import { stat, unlink } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { Condition } from '../base/condition.ts';
import { SQLSTATE, WalcadeError, describeSystemError, systemErrorCode } from '../base/errors.ts';
import { ifThere } from '../base/file-access-error.ts';
import type { Log } from '../base/log.ts';

export interface RestoreRequestsOptions {
  /** The file by which it asks. */
  path: string;
  /** Resolves when it may copy. */
  untilComplete: () => Promise<void>;
  log: Log;
}

/** Answers until `signal` aborts. */
export async function answerRestoreRequests(
  { path, untilComplete, log }: RestoreRequestsOptions,
  signal: AbortSignal,
): Promise<void> {
  const asked = new Condition();
  // It may have asked already, or while an earlier request was answered.
  const request = { isNew: true };
  const onChange = (name: string | null): void => {
    if (name !== null && name !== basename(path)) return;
    request.isNew = true;
    asked.notify();
  };
  let told: string | undefined;
  const tell = (error: unknown): void => {
    const failure = notAnswered(path, error);
    if (failure.message !== told) log.warning(failure);
    told = failure.message;
  };
  const watcher = watchDirectory(dirname(path), { onChange, onError: tell });
  try {
    for (;;) {
      if (!request.isNew) await asked.wait(signal);
      request.isNew = false;
      try {
        // That the last request was taken away is news too.
        if ((await ifThere(stat(path))) === undefined) continue;
        // What the server has logged before it asked is read first.
        await new Promise((resolve) => setImmediate(resolve));
        await untilComplete();
        await ifThere(unlink(path));
      } catch (error) {
        signal.throwIfAborted();
        if (systemErrorCode(error) === undefined) throw error;
        tell(error);
      }
    }
  } finally {
    watcher?.close();
  }
}

/** The system has few watches to give, and may have none left. */
function watchDirectory(
  directory: string,
  {
    onChange,
    onError,
  }: { onChange: (name: string | null) => void; onError: (error: unknown) => void },
): FSWatcher | undefined {
  try {
    const watcher = watch(directory, (_event, name) => onChange(name));
    return watcher.on('error', onError);
  } catch (error) {
    onError(error);
    return undefined;
  }
}

function notAnswered(path: string, error: unknown): WalcadeError {
  return new WalcadeError(
    SQLSTATE.IO_ERROR,
    `could not answer the restore_command of the attached server: ${describeSystemError(error)}`,
    {
      detail: `It asks by file "${path}", and goes on without an answer after a fifth of a second.`,
      hint: 'Until this is mended and the node restarted, promote it by "walcade promote" only.',
      cause: error,
    },
  );
}
