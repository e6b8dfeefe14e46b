/**
 * A server that a test runs as a child process, from its start to its exit.
 *
 * Whatever ends the test process, no server outlives it: those still running when it exits are
 * told to stop at once (SIGQUIT, which PostgreSQL and walcade understand alike).
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, closeSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerUser } from '../../src/postgres/server-user.ts';
import type { ServerLog } from './server-log.ts';

const STOP_TIMEOUT_MS = 60_000;
const LOG_TAIL_LINES = 20;

const running = new Set<ServerProcess>();

process.on('exit', () => {
  for (const server of running) {
    server.signal('SIGQUIT');
    server.signal('SIGCONT');
  }
});

export interface ServerProcessOptions {
  name: string;
  program: string;
  args: readonly string[];
  /** Gets standard error, and standard output unless `onLine` takes it. */
  log: ServerLog;
  environment: Record<string, string | undefined>;
  user?: ServerUser | undefined;
  /** Gets the lines of standard output. */
  onLine?: (line: string) => void;
}

export class ServerProcess {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #log: ServerLog;
  readonly #exited: Promise<string>;
  #outcome: string | undefined;

  private constructor(child: ChildProcess, name: string, log: ServerLog) {
    this.#child = child;
    this.name = name;
    this.#log = log;
    this.#exited = new Promise((resolve) => {
      child.once('exit', (code, signal) => {
        running.delete(this);
        this.#outcome = code === null ? `signal ${signal}` : `exit status ${code}`;
        resolve(this.#outcome);
      });
    });
    running.add(this);
  }

  /** Starts the program; resolves when it has a process id, which says nothing of its health. */
  static async spawn(options: ServerProcessOptions): Promise<ServerProcess> {
    const { name, program, args, log, environment, user, onLine } = options;
    const logFile = openSync(log.file, 'a');
    try {
      const child = spawn(program, args, {
        cwd: '/',
        env: environment,
        stdio: ['ignore', onLine === undefined ? logFile : 'pipe', logFile],
        ...user,
      });
      const server = new ServerProcess(child, name, log);
      if (onLine !== undefined && child.stdout !== null) {
        createInterface({ input: child.stdout }).on('line', onLine);
      }
      await once(child, 'spawn');
      return server;
    } finally {
      closeSync(logFile);
    }
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** How the process ended, `exit status 0` or `signal SIGKILL`; undefined while it runs. */
  get outcome(): string | undefined {
    return this.#outcome;
  }

  /** Resolves to the outcome. */
  async exit(): Promise<string> {
    return this.#exited;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#outcome === undefined) this.#child.kill(signal);
  }

  /** Sends `signal` and awaits the exit; an error with the end of the log after a minute. */
  async stop(signal: NodeJS.Signals, timeoutMs = STOP_TIMEOUT_MS): Promise<string> {
    this.signal(signal);
    const ended = new AbortController();
    const expired = sleep(timeoutMs, undefined, { signal: ended.signal }).catch(() => undefined);
    const outcome = await Promise.race([this.#exited, expired]);
    ended.abort();
    if (outcome !== undefined) return outcome;
    const tail = await this.#log.tail(LOG_TAIL_LINES);
    throw new Error(`${this.name} did not exit within ${timeoutMs} ms of ${signal}\n${tail}`);
  }

  /** An error that says that the process ended too early, with the end of its log. */
  async earlyExit(): Promise<Error> {
    const tail = await this.#log.tail(LOG_TAIL_LINES);
    return new Error(`${this.name} ended with ${this.#outcome} before it was ready\n${tail}`);
  }
}
