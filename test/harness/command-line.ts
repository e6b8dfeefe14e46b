/**
 * The command `walcade` as a person runs it: what it printed, and how it ended.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { TestDirectory } from './test-directory.ts';

export const PROGRAM = fileURLToPath(new URL('../../bin/walcade', import.meta.url));
const COMMAND_TIMEOUT_MS = 60_000;

export interface Outcome {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs `walcade` with `args` in `directory`; a refusal is an outcome too, a hang is an error. */
export async function walcade(args: readonly string[], directory: string): Promise<Outcome> {
  const options = {
    cwd: directory,
    timeout: COMMAND_TIMEOUT_MS,
    env: { ...process.env, NODE_OPTIONS: '', NO_COLOR: '1', TZ: 'UTC' },
  };
  return new Promise((resolve, reject) => {
    execFile(process.execPath, [PROGRAM, ...args], options, (error, stdout, stderr) => {
      const status = error === null ? 0 : error.code;
      if (typeof status === 'number') resolve({ status, stdout, stderr });
      else reject(new Error(`walcade ${args.join(' ')} did not end: ${stderr}`, { cause: error }));
    });
  });
}

/** Runs `walcade init -D node` in the test's directory. */
export function initNode(tree: TestDirectory, upstream: string, ...args: string[]) {
  return walcade(['init', '-D', 'node', '--upstream', upstream, ...args], tree.path);
}

export interface Refusal {
  /** Of the one message, behind "walcade: error: ". */
  message: RegExp;
  detail?: RegExp;
  hint?: RegExp;
  status?: number;
}

/** Asserts that a command said one error, as announced, with no stack trace, and failed. */
export function assertRefused(outcome: Outcome, expected: Refusal): void {
  const { status, stdout, stderr } = outcome;
  const { message, detail, hint, status: expectedStatus = 1 } = expected;
  assert.equal(status, expectedStatus, stderr);
  assert.equal(stdout, '');
  const messages = [...stderr.matchAll(/^walcade: error: (.*)$/gm)].map(([, text]) => text ?? '');
  assert.equal(messages.length, 1, `one message in:\n${stderr}`);
  assert.match(messages[0] ?? '', message);
  if (detail !== undefined) assert.match(/^DETAIL: {2}([^]*)/m.exec(stderr)?.[1] ?? '', detail);
  if (hint !== undefined) assert.match(/^HINT: {2}(.*)$/m.exec(stderr)?.[1] ?? '', hint);
  assert.doesNotMatch(stderr, /^\s+at |node:internal/m);
}

/** Asserts that a command went well without a word on standard error; gives what it printed. */
export function assertDone({ status, stdout, stderr }: Outcome): string {
  assert.equal(stderr, '');
  assert.equal(status, 0);
  return stdout;
}
