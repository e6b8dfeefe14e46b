/**
 * One process of the attached server's: its postmaster, from its start to its end.
 *
 * It is a session of its own, so that a Ctrl-C in the node's terminal does not reach it: only the
 * node signals it. A shell stands at its beginning, which tells the watcher its process ID and then
 * becomes the server (`exec`): so does the end of a program that is not there look like any other.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import { LogLines } from './log-lines.ts';
import { serverEnvironment } from './server-environment.ts';
import type { ServerUser } from './server-user.ts';

/** `3>&-`: were the server to keep the watcher's pipe, its end would never come. */
const SCRIPT = 'echo "$$" >&3 && exec "$@" 3>&-';

/**
 * How long after the postmaster's end its last lines, and the end of its children, are waited for:
 * they hold the same pipe. After a kill -9 a new server cannot start before they are gone.
 */
const LAST_LINES_TIMEOUT_MS = 5_000;

export interface PostmasterOptions {
  /** The program `postgres`. */
  program: string;
  args: readonly string[];
  user: ServerUser | undefined;
  /** Gets the process ID as a line, before the program runs. */
  watcher: Writable;
  clock: Clock;
  /** Gets what the server writes, whole lines. */
  onLines: (text: string) => void;
}

export class Postmaster {
  readonly #process: ChildProcess;
  /**
   * Resolves when it has ended and what it wrote was handed on, to words that complete "the
   * attached PostgreSQL server …". Rejects with a system error if it could not be started.
   */
  readonly ended: Promise<string>;

  constructor({ program, args, user, watcher, clock, onLines }: PostmasterOptions) {
    this.#process = spawn('/bin/sh', ['-c', SCRIPT, 'walcade-postgres', program, ...args], {
      cwd: '/',
      env: serverEnvironment(process.env, user),
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe', watcher],
      ...user,
    });
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      if (stream !== null) readLines(stream, onLines);
    }
    this.ended = whenEnded(this.#process, clock);
  }

  /** Undefined if it could not be started. */
  get pid(): number | undefined {
    return this.#process.pid;
  }

  /** Sends a signal, unless the process has ended. */
  signal(signal: NodeJS.Signals): void {
    this.#process.kill(signal);
  }
}

function readLines(stream: Readable, onLines: (text: string) => void): void {
  const lines = new LogLines();
  const handOn = (text: string): void => {
    if (text !== '') onLines(text);
  };
  stream.on('data', (chunk: Buffer) => handOn(lines.push(chunk)));
  stream.once('close', () => handOn(lines.end()));
  // A pipe that breaks ends the stream.
  stream.on('error', () => {});
}

function whenEnded(child: ChildProcess, clock: Clock): Promise<string> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) => {
      if (child.pid === undefined) reject(error);
    });
    child.once('exit', (code, signal) => {
      const words =
        code === null ? `was terminated by signal ${signal}` : `has ended with exit status ${code}`;
      const timer = clock.setTimer(LAST_LINES_TIMEOUT_MS, () => {
        child.stdout?.destroy();
        child.stderr?.destroy();
      });
      child.once('close', () => {
        timer.cancel();
        resolve(words);
      });
    });
  });
}
