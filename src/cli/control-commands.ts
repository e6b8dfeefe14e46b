/** `walcade start`, `stop` and `restart`: a node's process as pg_ctl has a server's. */
import { spawn } from 'node:child_process';
import { openSync, readFileSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { systemClock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { readStatus } from '../admin/control-client.ts';
import { CONTROL_SOCKET, checkNodeDirectory } from '../node/node-directory.ts';
import { runningPid } from '../node/node-lock.ts';
import { notRunning } from './asked-node.ts';
import { notReadyYet, startFailure } from './start-failure.ts';

const POLL_MS = 50;
const NEVER = new AbortController().signal;
const LOG_FILE = 'walcade.log';

export interface StartOptions {
  logFile: string | undefined;
  timeoutSeconds: number;
}

/** Starts the node in `directory`, waits until it serves; throws what its log says if it ends. */
export async function startCommand(
  directory: string,
  { logFile, timeoutSeconds }: StartOptions,
): Promise<void> {
  await checkNodeDirectory(directory);
  const running = await runningPid(directory);
  if (running !== undefined) {
    throw new WalcadeError(
      SQLSTATE.OBJECT_IN_USE,
      `node in "${directory}" is already running (PID ${running})`,
    );
  }
  const path = logFile === undefined ? join(directory, LOG_FILE) : resolve(logFile);
  const log = openSync(path, 'a', 0o600);
  const logStart = statSync(path).size;
  const program = process.argv[1] ?? '';
  const child = spawn(process.execPath, [program, 'run', '-D', directory], {
    detached: true,
    stdio: ['ignore', 'pipe', log],
  });
  const outcome = await new Promise<'ready' | 'ended' | 'timeout'>((settle) => {
    const timer = systemClock.setTimer(timeoutSeconds * 1000, () => settle('timeout'));
    const done = (what: 'ready' | 'ended'): void => {
      timer.cancel();
      settle(what);
    };
    child.stdout?.on('data', (text: Buffer) => {
      if (!text.toString().startsWith('ready')) return;
      process.stdout.write(text);
      done('ready');
    });
    child.once('exit', () => done('ended'));
  });
  child.stdout?.destroy();
  child.unref();
  if (outcome === 'ready') return;
  if (outcome === 'ended') {
    const said = readFileSync(path).subarray(logStart).toString();
    throw startFailure(said, { path, pid: child.pid });
  }
  // A socket's path must be short.
  process.chdir(directory);
  const status = await readStatus(CONTROL_SOCKET).catch(() => undefined);
  throw notReadyYet(status?.server ?? null, { timeoutSeconds, path });
}

/** Stops the node and waits until it is gone. Throws when none is running, or when time is over. */
export async function stopCommand(
  directory: string,
  { mode, timeoutSeconds }: { mode: string; timeoutSeconds: number },
): Promise<void> {
  const pid = await requireRunning(directory);
  if (mode !== 'fast' && mode !== 'immediate') {
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `unrecognized shutdown mode "${mode}"`,
      { hint: 'Valid modes are "fast" and "immediate".' },
    );
  }
  process.kill(pid, mode === 'fast' ? 'SIGINT' : 'SIGQUIT');
  const deadlineMs = systemClock.monotonicMs() + timeoutSeconds * 1000;
  while ((await runningPid(directory)) !== undefined) {
    if (systemClock.monotonicMs() > deadlineMs) {
      throw new WalcadeError(
        SQLSTATE.OBJECT_IN_USE,
        `node does not shut down (PID ${pid}, waited ${timeoutSeconds} s)`,
        {
          detail: `It waits for ${await waitedFor(directory)}.`,
          hint: 'With "-m immediate" it does not wait.',
        },
      );
    }
    await systemClock.sleep(POLL_MS, NEVER);
  }
  process.stdout.write('node stopped\n');
}

/** What an orderly stop is about: the attached server ends first, then the downstreams' streams. */
async function waitedFor(directory: string): Promise<string> {
  // A socket's path must be short.
  process.chdir(directory);
  const status = await readStatus(CONTROL_SOCKET).catch(() => undefined);
  return status?.server?.state === 'stopping'
    ? 'its attached PostgreSQL server to shut down'
    : 'downstreams to take the rest of WAL';
}

async function requireRunning(directory: string): Promise<number> {
  await checkNodeDirectory(directory);
  const pid = await runningPid(directory);
  if (pid === undefined) throw notRunning(directory);
  return pid;
}
