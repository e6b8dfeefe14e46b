/**
 * Answers the attached server's restore_command, which asks before it copies WAL of the node's: at
 * once as a rule, but while the server is promoted only when nothing more is to come and all is
 * written. The server takes the end of what it copies for the end of its timeline; a downstream
 * that had been sent more could not follow it there. It lives as long as the node runs.
 */
import { watch } from 'node:fs';
import { stat, unlink } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { Condition } from '../base/condition.ts';
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
  const watcher = watch(dirname(path), (_event, name) => {
    if (name !== null && name !== basename(path)) return;
    request.isNew = true;
    asked.notify();
  });
  // Without an answer it goes on after a while.
  watcher.on('error', (error) => log.log(`cannot watch "${dirname(path)}": ${error.message}`));
  try {
    for (;;) {
      if (!request.isNew) await asked.wait(signal);
      request.isNew = false;
      // That the last request was taken away is news too.
      if ((await ifThere(stat(path))) === undefined) continue;
      // What the server has logged before it asked is read first.
      await new Promise((resolve) => setImmediate(resolve));
      await untilComplete();
      await ifThere(unlink(path));
    }
  } finally {
    watcher.close();
  }
}
