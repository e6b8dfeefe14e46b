/**
 * A server that runs in the data directory before the node has started one: left from a node that
 * was killed, and ended here, or somebody else's, and left alone.
 */
import { resolve } from 'node:path';
import type { Clock } from '../base/clock.ts';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { type PostmasterPid, isEndUnnoted, runningServer } from './postmaster-pid.ts';

export interface LeftServerOptions {
  dataDirectory: string;
  /** Where a server of this node listens. */
  socketDirectory: string;
  clock: Clock;
  log: Log;
  /** Told when there is one to wait for. */
  onWaiting: (pid: number) => void;
}

const INTERVAL_MS = 100;

/** How long a server that has just been started may take to write where it listens. */
const LISTEN_TIMEOUT_MS = 10_000;
const NOTED_TIMEOUT_MS = 10_000;

/**
 * Ends the server of this node that still runs, with a fast shutdown, and resolves once there is
 * none, however long that takes. Throws 55006 if the one that runs is not of this node.
 */
export async function endLeftServer(
  options: LeftServerOptions,
  signal: AbortSignal,
): Promise<void> {
  const { dataDirectory, socketDirectory, clock, log, onWaiting } = options;
  const server = await listeningServer(options, signal);
  if (server === undefined) return untilEndIsNoted(options, signal);
  if (resolve(server.socketDirectory) !== resolve(socketDirectory)) {
    throw inUse(dataDirectory, server);
  }
  log.log(
    'waiting until the attached PostgreSQL server of an earlier node process has shut down',
    `Its process ID is ${server.pid}.`,
  );
  onWaiting(server.pid);
  shutDown(server.pid);
  while ((await runningServer(dataDirectory))?.pid === server.pid) {
    await clock.sleep(INTERVAL_MS, signal);
  }
}

/** A killed server's parent, or who takes its place when that was killed too, may be slow. */
async function untilEndIsNoted(
  { dataDirectory, clock }: LeftServerOptions,
  signal: AbortSignal,
): Promise<void> {
  const giveUpMs = clock.monotonicMs() + NOTED_TIMEOUT_MS;
  while ((await isEndUnnoted(dataDirectory)) && clock.monotonicMs() < giveUpMs) {
    await clock.sleep(INTERVAL_MS, signal);
  }
}

/** The server that runs, once it has said where it listens. */
async function listeningServer(
  { dataDirectory, clock }: LeftServerOptions,
  signal: AbortSignal,
): Promise<PostmasterPid | undefined> {
  const giveUpMs = clock.monotonicMs() + LISTEN_TIMEOUT_MS;
  for (;;) {
    const server = await runningServer(dataDirectory);
    // The status is written after all the rest.
    if (server === undefined || server.status !== '') return server;
    if (clock.monotonicMs() >= giveUpMs) return server;
    await clock.sleep(INTERVAL_MS, signal);
  }
}

function shutDown(pid: number): void {
  try {
    process.kill(pid, 'SIGINT');
  } catch (error) {
    if (systemErrorCode(error) !== 'ESRCH') throw error;
  }
}

function inUse(dataDirectory: string, { pid, socketDirectory }: PostmasterPid): WalcadeError {
  const where = socketDirectory === '' ? 'on no socket' : `in directory "${socketDirectory}"`;
  return new WalcadeError(
    SQLSTATE.OBJECT_IN_USE,
    `data directory "${dataDirectory}" is in use by a running server`,
    {
      detail: `The server has the process ID ${pid} and listens ${where}.`,
      hint: `Stop it first, for example with "pg_ctl stop -D ${dataDirectory}".`,
    },
  );
}
