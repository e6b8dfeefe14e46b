/**
 * Runs a command that the operator has written, in a shell, to its end.
 *
 * It is a process group of its own: when its signal aborts, all of it is asked to end, then killed,
 * so that nothing outlives the call.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import type { Clock } from '../base/clock.ts';
import type { ProcessEnd } from './process-end.ts';

export interface ShellCommandOutcome {
  end: ProcessEnd;
  /** The end of what it wrote, both streams on one line. */
  output: string;
}

/** For what a command that is asked to end still does. */
const END_TIMEOUT_MS = 2_000;
/** For its last output, which a process that it left behind may hold open. */
const OUTPUT_TIMEOUT_MS = 1_000;
const OUTPUT_LENGTH_MAX = 500;

/** Runs `text` in `directory`. Throws a system error if there is no shell, or `signal.reason`. */
export async function runShellCommand(
  text: string,
  { directory, clock }: { directory: string; clock: Clock },
  signal: AbortSignal,
): Promise<ShellCommandOutcome> {
  signal.throwIfAborted();
  const shell = spawn('/bin/sh', ['-c', text], {
    cwd: directory,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const group = new ProcessGroup(shell.pid, clock);
  const stop = (): void => group.end();
  signal.addEventListener('abort', stop, { once: true });
  const tails = [tailOf(shell.stdout), tailOf(shell.stderr)];
  const closed = once(shell, 'close').catch(() => {});
  try {
    const [code, name] = (await once(shell, 'exit')) as [ProcessEnd['code'], ProcessEnd['signal']];
    signal.throwIfAborted();
    await atMost(OUTPUT_TIMEOUT_MS, clock, closed);
    const output = tails.map((tail) => tail()).join(' ');
    return { end: { code, signal: name }, output: output.replace(/\s+/g, ' ').trim() };
  } finally {
    signal.removeEventListener('abort', stop);
    group.ended();
    shell.stdout.destroy();
    shell.stderr.destroy();
  }
}

/** A shell and what it has started. */
class ProcessGroup {
  readonly #leader: number | undefined;
  readonly #clock: Clock;
  #timer: { cancel(): void } | undefined;

  constructor(leader: number | undefined, clock: Clock) {
    this.#leader = leader;
    this.#clock = clock;
  }

  end(): void {
    this.#kill('SIGTERM');
    this.#timer = this.#clock.setTimer(END_TIMEOUT_MS, () => this.#kill('SIGKILL'));
  }

  /** The shell has ended: what it leaves of a group that was asked to end is killed. */
  ended(): void {
    if (this.#timer === undefined) return;
    this.#timer.cancel();
    this.#kill('SIGKILL');
  }

  #kill(name: 'SIGTERM' | 'SIGKILL'): void {
    if (this.#leader === undefined) return;
    try {
      process.kill(-this.#leader, name);
    } catch {
      // Nothing of it is left.
    }
  }
}

/** Reads all of a stream; what is returned gives the end of it so far. */
function tailOf(stream: Readable): () => string {
  let tail = '';
  stream.setEncoding('utf8');
  stream.on('data', (text: string) => {
    tail = (tail + text).slice(-OUTPUT_LENGTH_MAX);
  });
  return () => tail;
}

async function atMost(timeoutMs: number, clock: Clock, event: Promise<unknown>): Promise<void> {
  let timer: { cancel(): void } | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = clock.setTimer(timeoutMs, resolve);
  });
  await Promise.race([event, timeout]);
  timer?.cancel();
}
