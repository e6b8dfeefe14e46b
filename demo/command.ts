/**
 * A program that the demo runs in its directory, from its start to its end.
 *
 * It has a session of its own: Ctrl-C reaches the demo alone, which then decides what ends how.
 * A command ends before the demo goes on, also when the demo is interrupted.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ServerUser } from '../src/postgres/server-user.ts';
import { killTree } from '../test/harness/process-tree.ts';

const WALCADE = fileURLToPath(new URL('../bin/walcade', import.meta.url));

/** How long an interrupted command may take to end by itself. */
const GRACE_MS = 15_000;

export interface CommandOptions {
  directory: string;
  /** Who runs it; undefined for the user of the demo. */
  user?: ServerUser | undefined;
  signal?: AbortSignal | undefined;
  /** Called when `signal` aborts, with the command that goes on; one that has none is let be. */
  onAbort?: (command: ChildProcess) => void;
}

/**
 * Runs a command line and gives what it printed; `walcade` is the one of this checkout. Throws
 * what the command complained of if it fails, and the signal's reason once it has ended.
 */
export async function runCommand(
  [name = '', ...args]: readonly string[],
  { directory, user, signal, onAbort }: CommandOptions,
): Promise<string> {
  signal?.throwIfAborted();
  const [program, programArgs] =
    name === 'walcade' ? [process.execPath, [WALCADE, ...args]] : [name, args];
  const child = spawn(program, programArgs, {
    cwd: directory,
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
    ...user,
  });
  let printed = '';
  let complaint = '';
  child.stdout.on('data', (text: Buffer) => (printed += text.toString()));
  child.stderr.on('data', (text: Buffer) => (complaint += text.toString()));
  const ended = new Promise<string>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code, killedBy) => {
      resolve(code === null ? `signal ${killedBy}` : `exit status ${code}`);
    });
  });
  let patience: NodeJS.Timeout | undefined;
  const abort = (): void => {
    onAbort?.(child);
    const { pid } = child;
    if (pid !== undefined) patience = setTimeout(() => void killTree(pid), GRACE_MS);
  };
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const outcome = await ended;
    signal?.throwIfAborted();
    if (outcome === 'exit status 0') return printed;
    throw new Error(`"${[name, ...args].join(' ')}" ended with ${outcome}\n${complaint.trim()}`);
  } finally {
    signal?.removeEventListener('abort', abort);
    clearTimeout(patience);
  }
}
