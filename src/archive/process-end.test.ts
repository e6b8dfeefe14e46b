/** How a command has ended is said, and judged, as PostgreSQL does it. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type ProcessEnd, describeProcessEnd, isHardFailure } from './process-end.ts';

const ENDS: [end: ProcessEnd, text: string, isHard: boolean][] = [
  [{ code: 1, signal: null }, 'child process exited with exit code 1', false],
  [{ code: 125, signal: null }, 'child process exited with exit code 125', false],
  [{ code: 126, signal: null }, 'command not executable', true],
  [{ code: 127, signal: null }, 'command not found', true],
  [{ code: 137, signal: null }, 'child process exited with exit code 137', true],
  [{ code: null, signal: 'SIGKILL' }, 'child process was terminated by signal 9: Killed', true],
  [{ code: null, signal: 'SIGALRM' }, 'child process was terminated by signal 14: SIGALRM', true],
];

for (const [end, text, isHard] of ENDS) {
  test(`"${text}" ${isHard ? 'tells nothing of the archive' : 'says there is no file'}`, () => {
    assert.equal(describeProcessEnd(end), text);
    assert.equal(isHardFailure(end), isHard);
  });
}
