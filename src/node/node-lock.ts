/**
 * The lock that lets one process at a time have a node's directory, to make the node or to run it.
 *
 * It is the operating system's, on walcade.pid: it goes with the process, however that ends. What
 * the file says is for people and for `walcade stop`. To take it needs native code, which a command
 * that only asks a running node does without.
 */
import fs from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { ifThere } from '../base/file-access-error.ts';
import { tryLock, unlock } from './file-locks.ts';

export const PID_FILE = 'walcade.pid';

export interface NodeLock {
  /** Writes what people and `walcade stop` read; the first line is the process ID. */
  describe(state: 'making' | 'starting' | 'ready', port: number): Promise<void>;
  release(): Promise<void>;
}

const { O_RDWR, O_CREAT, O_NOFOLLOW } = fs.constants;

/** How often the lock is tried: `runningPid` of another process may hold it for a moment. */
const LOCK_ATTEMPTS = 5;
const LOCK_RETRY_MS = 20;

/** Takes the node for this process; throws F0001 naming the process that has it. */
export async function lockNode(directory: string, clock: Clock): Promise<NodeLock> {
  const path = join(directory, PID_FILE);
  for (let attempt = 1; ; attempt++) {
    const file = await fs.open(path, O_RDWR | O_CREAT | O_NOFOLLOW, 0o600);
    if (!tryLock(file.fd)) {
      const pid = await readPid(file);
      await file.close();
      if (attempt >= LOCK_ATTEMPTS) throw alreadyRunning(directory, pid);
      await clock.sleep(LOCK_RETRY_MS, new AbortController().signal);
      continue;
    }
    if (await isFileAt(file, path)) {
      const startedSeconds = Math.floor(clock.nowMs() / 1000);
      return {
        describe: async (state, port) => {
          // Over what is there, so that at no time a reader finds no process ID.
          const text = `${process.pid}\n${startedSeconds}\n${port}\n${state}\n`;
          await file.write(text, 0);
          await file.truncate(Buffer.byteLength(text));
        },
        release: async () => {
          await fs.rm(path, { force: true });
          await file.close();
        },
      };
    }
    // Its last owner removed it between our opening and locking it.
    await file.close();
  }
}

async function isFileAt(file: fs.FileHandle, path: string): Promise<boolean> {
  const opened = await file.stat();
  try {
    const named = await fs.stat(path);
    return named.ino === opened.ino && named.dev === opened.dev;
  } catch {
    return false;
  }
}

/** The process that has the node; undefined when it is stopped, whatever a stale file says. */
export async function runningPid(directory: string): Promise<number | undefined> {
  const file = await ifThere(fs.open(join(directory, PID_FILE), 'r+'));
  if (file === undefined) return undefined;
  try {
    if (!tryLock(file.fd, { shared: true })) return await readPid(file);
    unlock(file.fd);
    return undefined;
  } finally {
    await file.close();
  }
}

/** From the file that is locked: its owner may be about to remove it. */
async function readPid(file: fs.FileHandle): Promise<number | undefined> {
  const { buffer, bytesRead } = await file.read({ position: 0 });
  const [line] = buffer.toString('utf8', 0, bytesRead).split('\n');
  const pid = Number(line);
  return Number.isInteger(pid) && pid > 0 ? pid : undefined;
}

function alreadyRunning(directory: string, pid: number | undefined): WalcadeError {
  const who = pid === undefined ? '' : ` (PID ${pid})`;
  return new WalcadeError(SQLSTATE.LOCK_FILE_EXISTS, `lock file "${PID_FILE}" is held`, {
    detail: `A walcade process${who} is running in directory "${resolve(directory)}".`,
    hint: 'Stop it first, with "walcade stop".',
  });
}
