/**
 * postmaster.pid: what a server says of itself in its data directory (pidfile.h), and whether it
 * is there to mean it. The file stays behind when a server is killed, and its process ID may be
 * another process's by now.
 */
import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { systemErrorCode } from '../base/errors.ts';
import { ifThere } from '../base/file-access-error.ts';

export const POSTMASTER_PID_FILE = 'postmaster.pid';

export interface PostmasterPid {
  /** The postmaster's, or that of a standalone backend (`postgres --single`). */
  pid: number;
  dataDirectory: string;
  port: number;
  /** The first directory with a socket; empty without one, and until it is made. */
  socketDirectory: string;
  /** `starting`, `stopping`, `ready`, `standby`; empty until the first of them is written. */
  status: string;
}

/**
 * Reads the lines that pidfile.h names; undefined for what no server wrote. Lines that are added
 * as the server starts may be missing.
 */
export function parsePostmasterPid(text: string): PostmasterPid | undefined {
  const [pidLine = '', dataDirectory = '', , portLine = '', socketDirectory = '', , , status = ''] =
    text.split('\n');
  // A standalone backend writes the negative of its process ID.
  if (!/^-?[0-9]{1,10}$/.test(pidLine)) return undefined;
  const pid = Math.abs(Number(pidLine));
  if (pid === 0) return undefined;
  return { pid, dataDirectory, port: Number(portLine), socketDirectory, status: status.trim() };
}

/** What the file of `dataDirectory` says now; undefined if there is none, or none that is read. */
export async function readPostmasterPid(dataDirectory: string): Promise<PostmasterPid | undefined> {
  const text = await ifThere(readFile(join(dataDirectory, POSTMASTER_PID_FILE), 'utf8'));
  return text === undefined ? undefined : parsePostmasterPid(text);
}

/** The server that runs in `dataDirectory` now; undefined if none, whatever a stale file says. */
export async function runningServer(dataDirectory: string): Promise<PostmasterPid | undefined> {
  const said = await readPostmasterPid(dataDirectory);
  if (said === undefined || !isAlive(said.pid)) return undefined;
  return (await worksIn(said.pid, dataDirectory)) ? said : undefined;
}

/**
 * Whether the server that postmaster.pid names has ended and nobody has noted its end yet (a
 * zombie): a server that is started meanwhile takes it for running. Linux tells; elsewhere it is
 * not known.
 */
export async function isEndUnnoted(dataDirectory: string): Promise<boolean> {
  const said = await readPostmasterPid(dataDirectory);
  if (said === undefined) return false;
  const stat = await readFile(`/proc/${said.pid}/stat`, 'utf8').catch(() => '');
  // The name before it, in parentheses, may hold anything (proc(5)).
  return stat.slice(stat.lastIndexOf(')') + 2, stat.lastIndexOf(')') + 3) === 'Z';
}

/**
 * Whether `pid` is a process that may be a server of this data directory. PostgreSQL takes a
 * process of another user for none (miscinit.c, CreateLockFile()), as all servers of a directory
 * run as its owner.
 */
function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    const code = systemErrorCode(error);
    if (code === 'ESRCH' || code === 'EPERM') return false;
    throw error;
  }
}

/**
 * Whether `directory` is the working directory of `pid`, as it is that of every server. Where the
 * system does not say, the file is believed. A zombie has none.
 */
async function worksIn(pid: number, directory: string): Promise<boolean> {
  if (!existsSync('/proc/self/cwd')) return true;
  try {
    const [its, ours] = await Promise.all([stat(`/proc/${pid}/cwd`), stat(directory)]);
    return its.dev === ours.dev && its.ino === ours.ino;
  } catch (error) {
    const code = systemErrorCode(error);
    return code !== 'ENOENT' && code !== 'ESRCH';
  }
}
