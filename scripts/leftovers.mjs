/**
 * Finds the processes of a test run by the run's temporary directory: in their command line, in
 * their environment, or as the place of their working directory. The last is what tells a
 * PostgreSQL backend, which overwrites the other two with its title.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, readdirSync, readlinkSync } from 'node:fs';

/** Every process but this one that belongs to the run in `directory`, as { pid, command }. */
export function findLeftovers(directory) {
  const found = existsSync('/proc/self/cwd') ? fromProc(directory) : fromPs(directory);
  return found.filter(({ pid }) => pid !== process.pid);
}

function fromProc(directory) {
  const found = [];
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    const command = read(`/proc/${pid}/cmdline`);
    if (command === '') continue;
    const traces = [command, read(`/proc/${pid}/environ`), readLink(`/proc/${pid}/cwd`)];
    if (traces.some((trace) => trace.includes(directory))) {
      found.push({ pid: Number(pid), command: command.replaceAll('\0', ' ').trim() });
    }
  }
  return found;
}

function fromPs(directory) {
  const { stdout } = spawnSync('ps', ['-axww', '-o', 'pid=,command='], { encoding: 'utf8' });
  return (stdout ?? '')
    .split('\n')
    .filter((line) => line.includes(directory))
    .map((line) => {
      const [, pid, command] = /^\s*(\d+)\s+(.*)$/.exec(line) ?? [];
      return { pid: Number(pid), command };
    });
}

/** The text of a file of /proc; empty if the process is gone, a zombie or another user's. */
function read(file) {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    return '';
  }
}

function readLink(file) {
  try {
    return readlinkSync(file);
  } catch {
    return '';
  }
}
