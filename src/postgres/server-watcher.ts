/**
 * Watches over the attached server for the case that the node is killed: then a server that nobody
 * watches would go on, and not be there for the next node. A shell that runs beside the server ends
 * it as the node would have done, with a fast shutdown.
 *
 * It lives from before the server's start until after its end. The node holds the writing end of
 * its standard input and nobody else does (the server closes its copy before it begins), so that
 * its end is the node's. The first line is the server's process ID, written by the process that
 * becomes the server: at no moment is there a server that the watcher does not know of.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Writable } from 'node:stream';
import { join } from 'node:path';
import type { Clock, Timer } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import { POSTMASTER_PID_FILE } from './postmaster-pid.ts';
import { serverEnvironment } from './server-environment.ts';
import type { ServerUser } from './server-user.ts';

/**
 * Signals that a terminal or a service manager sends to all processes are the node's to answer. A
 * server that has just been started may not have written its file yet; a process with its number
 * that never does so is another.
 */
const SCRIPT = `
trap '' HUP INT TERM
read -r pid || exit 0
while read -r line; do :; done
tries=60
while [ "$tries" -gt 0 ] && kill -0 "$pid"; do
  first=
  read -r first <"$1"
  if [ "$first" = "$pid" ]; then
    kill -INT "$pid"
    exit 0
  fi
  tries=$((tries - 1))
  sleep 1
done`;

const RESTART_DELAY_MS = 1_000;

export interface ServerWatcherOptions {
  dataDirectory: string;
  user: ServerUser | undefined;
  clock: Clock;
  log: Log;
}

type Shell = ChildProcess & { readonly stdin: Writable };

export class ServerWatcher {
  readonly #options: ServerWatcherOptions;
  #shell: Shell;
  #server: number | undefined;
  #restartTimer: Timer | undefined;
  #restarting: Promise<void> | undefined;
  #isOver = false;

  private constructor(options: ServerWatcherOptions, shell: Shell) {
    this.#options = options;
    this.#shell = shell;
    this.#restartWhenEnded();
  }

  /** Begins to watch; rejects with a system error if the shell cannot be started. */
  static async start(options: ServerWatcherOptions): Promise<ServerWatcher> {
    return new ServerWatcher(options, await startShell(options));
  }

  /** Where the process that becomes the server writes its number first. */
  get input(): Writable {
    return this.#shell.stdin;
  }

  /** Notes the server's process ID, for another shell should this one be killed. */
  watch(server: number): void {
    this.#server = server;
  }

  /** Ends the watch without a signal to the server; resolves when the shell is gone. */
  async end(): Promise<void> {
    this.#isOver = true;
    this.#restartTimer?.cancel();
    await this.#restarting;
    if (this.#shell.exitCode !== null || this.#shell.signalCode !== null) return;
    const exit = once(this.#shell, 'exit');
    this.#shell.kill('SIGKILL');
    await exit;
  }

  #restartWhenEnded(): void {
    this.#shell.once('exit', () => {
      if (this.#isOver) return;
      this.#options.log.warning('the process that watches the attached server has ended');
      this.#restartLater();
    });
  }

  #restartLater(): void {
    this.#restartTimer = this.#options.clock.setTimer(RESTART_DELAY_MS, () => {
      this.#restarting = this.#restart();
    });
  }

  async #restart(): Promise<void> {
    try {
      this.#shell = await startShell(this.#options);
      this.#shell.stdin.write(`${this.#server}\n`);
      this.#restartWhenEnded();
    } catch (error) {
      this.#options.log.error(error);
      if (!this.#isOver) this.#restartLater();
    }
  }
}

async function startShell({ dataDirectory, user }: ServerWatcherOptions): Promise<Shell> {
  const file = join(dataDirectory, POSTMASTER_PID_FILE);
  const shell = spawn('/bin/sh', ['-c', SCRIPT, 'walcade-watcher', file], {
    cwd: '/',
    env: serverEnvironment(process.env, user),
    // A session of its own: no terminal is to reach it.
    detached: true,
    stdio: ['pipe', 'ignore', 'ignore'],
    ...user,
  });
  await once(shell, 'spawn');
  // That nobody reads any more is told by its end.
  shell.stdin.on('error', () => {});
  return shell;
}
