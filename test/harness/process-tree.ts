/**
 * What is done to a server with all its processes at once, as no signal to the first of them does.
 */
import { execFile } from 'node:child_process';
import { readFile, readdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import { systemErrorCode } from '../../src/base/errors.ts';
import { waitFor } from './wait.ts';

const run = promisify(execFile);

/** SIGKILL to process `pid` and all its descendants; resolves when the descendants are gone. */
export async function killTree(pid: number): Promise<void> {
  signal(pid, 'SIGSTOP');
  const descendants = await descendantsOf(pid);
  for (const victim of [pid, ...descendants]) signal(victim, 'SIGKILL');
  await waitFor(`the processes of ${pid} to be gone`, async () => {
    const left = new Set((await listProcesses()).map((each) => each.pid));
    return descendants.every((descendant) => !left.has(descendant));
  });
}

/** Stops process `pid` and all its descendants in their tracks; gives what lets them go on. */
export async function freezeTree(pid: number): Promise<() => void> {
  signal(pid, 'SIGSTOP');
  const frozen = [pid, ...(await descendantsOf(pid))];
  for (const each of frozen) signal(each, 'SIGSTOP');
  return () => {
    for (const each of frozen) signal(each, 'SIGCONT');
  };
}

async function descendantsOf(pid: number): Promise<number[]> {
  const processes = await listProcesses();
  const found = [pid];
  for (const ancestor of found) {
    for (const each of processes) if (each.parent === ancestor) found.push(each.pid);
  }
  return found.slice(1);
}

/** All processes but zombies. */
async function listProcesses(): Promise<{ pid: number; parent: number }[]> {
  if (process.platform !== 'linux') {
    const { stdout } = await run('ps', ['-axo', 'pid=,ppid=,stat=']);
    const rows = stdout.split('\n').map((line) => line.trim().split(/\s+/));
    return rows
      .filter(([, , state]) => state !== undefined && !state.startsWith('Z'))
      .map(([pid, parent]) => ({ pid: Number(pid), parent: Number(parent) }));
  }
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const processes = await Promise.all(
    pids.map(async (pid) => {
      const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => '');
      const [state, parent] = text.slice(text.lastIndexOf(')') + 2).split(' ');
      return { pid: Number(pid), parent: Number(parent), state };
    }),
  );
  return processes.filter(({ state }) => state !== undefined && !['', 'Z', 'X'].includes(state));
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (systemErrorCode(error) !== 'ESRCH') throw error;
  }
}
