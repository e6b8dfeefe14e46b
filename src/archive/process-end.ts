/** How a command that a shell ran has ended, in PostgreSQL's words. */
import { constants } from 'node:os';

/** One of the two is given. */
export interface ProcessEnd {
  /** The exit status. */
  code: number | null;
  signal: NodeJS.Signals | null;
}

/** What strsignal() says of the signals that end processes. */
const SIGNAL_TEXTS: Partial<Record<NodeJS.Signals, string>> = {
  SIGHUP: 'Hangup',
  SIGINT: 'Interrupt',
  SIGQUIT: 'Quit',
  SIGABRT: 'Aborted',
  SIGKILL: 'Killed',
  SIGBUS: 'Bus error',
  SIGSEGV: 'Segmentation fault',
  SIGPIPE: 'Broken pipe',
  SIGTERM: 'Terminated',
};

/** As wait_error.c, wait_result_to_str(): `child process exited with exit code 1`. */
export function describeProcessEnd({ code, signal }: ProcessEnd): string {
  if (signal !== null) {
    const text = SIGNAL_TEXTS[signal] ?? signal;
    return `child process was terminated by signal ${constants.signals[signal]}: ${text}`;
  }
  if (code === 126) return 'command not executable';
  if (code === 127) return 'command not found';
  return `child process exited with exit code ${code}`;
}

/**
 * Whether nothing is known of what the command was to do: it was not found, or a signal ended it.
 * (A shell gives the signal of what it ran as a status; wait_result_is_any_signal().)
 */
export function isHardFailure({ code, signal }: ProcessEnd): boolean {
  return signal !== null || code === null || code > 125;
}
