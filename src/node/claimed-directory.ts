/**
 * A directory that a node is being made in, by this process alone: it holds the lock that a running
 * node holds, from the claim until `release` or `abandon`.
 *
 *   Only who holds the claim removes anything, and it has seen the directory empty under it.
 *
 * A process that is killed leaves a lock file that nobody has locked, and whoever comes next takes.
 */
import fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { Clock } from '../base/clock.ts';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, asWalcadeError, systemErrorCode } from '../base/errors.ts';
import { accessing } from '../base/file-access-error.ts';
import { CONTROL_FILE } from '../store/control-file-name.ts';
import { type NodeLock, PID_FILE, lockNode, runningPid } from './node-lock.ts';

/** A lock file names a port; who makes a node has none. */
const NO_PORT = 0;

interface Owner {
  readonly uid: number;
  readonly gid: number;
}

export class ClaimedDirectory {
  readonly #path: string;
  readonly #lock: NodeLock;
  readonly #isMade: boolean;
  /** Whose it was, if it was not ours. */
  readonly #takenFrom: Owner | undefined;

  private constructor(
    path: string,
    lock: NodeLock,
    before: { isMade: boolean; takenFrom: Owner | undefined },
  ) {
    this.#path = path;
    this.#lock = lock;
    this.#isMade = before.isMade;
    this.#takenFrom = before.takenFrom;
  }

  /**
   * Makes the directory, durably, or takes one that is there, as root from its owner, and holds
   * nothing but `mayHold`. Throws 58P02 if it holds more, F0001 if another process makes a node in
   * it, else what the file system answers; nothing is changed then but that the directory may have
   * been made.
   */
  static async claim(
    path: string,
    { mayHold, disk, clock }: { mayHold: readonly string[]; disk: Disk; clock: Clock },
  ): Promise<ClaimedDirectory> {
    const isMade = await makeDirectory(path);
    // Before the lock file is touched, since it may be that of a node.
    if (!(await isEmpty(path, mayHold))) throw await describeUse(path);
    const takenFrom = isMade ? undefined : await takeAsRoot(path);
    const lock = await takeLock(path, clock);
    const claimed = new ClaimedDirectory(path, lock, { isMade, takenFrom });
    try {
      const lockFile = join(path, PID_FILE);
      await accessing('write lock file', lockFile, () => claimed.#lock.describe('making', NO_PORT));
      if (!(await isEmpty(path, mayHold))) throw notEmpty(path);
      await syncParent(disk, path);
      return claimed;
    } catch (error) {
      await claimed.#letGo();
      throw error;
    }
  }

  /** Lets go of the directory: the node is made. */
  async release(): Promise<void> {
    await this.#lock.release();
  }

  /**
   * Takes back what was written, but for what `keep` names, and lets go. Throws, naming what is
   * left, if something could not be removed.
   */
  async abandon({ keep }: { keep: readonly string[] }): Promise<void> {
    const left: string[] = [];
    let failure: unknown;
    for (const name of await namesIn(this.#path)) {
      if (name === PID_FILE || keep.includes(name)) continue;
      const path = join(this.#path, name);
      try {
        await accessing('remove', path, () => fs.rm(path, { recursive: true, force: true }));
      } catch (error) {
        failure ??= error;
        left.push(`"${name}"`);
      }
    }
    await this.#letGo();
    if (failure !== undefined) throw somethingLeft(failure, { directory: this.#path, left });
  }

  /** A directory that we made goes too, unless it holds something: then that is to stay. */
  async #letGo(): Promise<void> {
    await this.#lock.release();
    const from = this.#takenFrom;
    if (from !== undefined) await fs.chown(this.#path, from.uid, from.gid);
    if (!this.#isMade) return;
    await accessing('remove directory', this.#path, async () => {
      try {
        await fs.rmdir(this.#path);
      } catch (error) {
        // Another process may have claimed it, and given it up, meanwhile.
        const code = systemErrorCode(error);
        if (code !== 'ENOTEMPTY' && code !== 'ENOENT') throw error;
      }
    });
  }
}

/** Whether it was made: it may be there. */
async function makeDirectory(path: string): Promise<boolean> {
  try {
    return await accessing('create directory', path, async () => {
      try {
        await fs.mkdir(path, { mode: 0o700 });
        return true;
      } catch (error) {
        if (systemErrorCode(error) === 'EEXIST') return false;
        throw error;
      }
    });
  } catch (error) {
    const { sqlstate, message } = asWalcadeError(error);
    const hint = 'The directory above it must exist, and be yours to write into.';
    throw new WalcadeError(sqlstate, message, { hint, cause: error });
  }
}

/**
 * What root writes into is root's: its owner could put a link in the place of any file. Gives whose
 * the directory was, if that is somebody else.
 */
async function takeAsRoot(path: string): Promise<Owner | undefined> {
  if (process.geteuid?.() !== 0) return undefined;
  const { uid, gid } = await fs.stat(path);
  if (uid === 0) return undefined;
  await accessing('change the owner of directory', path, () => fs.chown(path, 0, gid));
  return { uid, gid };
}

function namesIn(directory: string): Promise<string[]> {
  return accessing('read directory', directory, () => fs.readdir(directory));
}

async function isEmpty(directory: string, mayHold: readonly string[]): Promise<boolean> {
  const names = await namesIn(directory);
  return names.every((name) => name === PID_FILE || mayHold.includes(name));
}

/** What a directory that is not empty is: a node is being made in it, or it is used otherwise. */
async function describeUse(directory: string): Promise<WalcadeError> {
  if ((await namesIn(directory)).includes(CONTROL_FILE)) return notEmpty(directory);
  const lockFile = join(directory, PID_FILE);
  const pid = await accessing('open lock file', lockFile, () => runningPid(directory));
  if (pid === undefined) return notEmpty(directory);
  return beingMade(directory, `A walcade process (PID ${pid}) is running in it.`);
}

function notEmpty(directory: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.DUPLICATE_FILE,
    `directory "${directory}" exists but is not empty`,
    { hint: 'Empty it, or choose another directory with -D.' },
  );
}

async function takeLock(directory: string, clock: Clock): Promise<NodeLock> {
  try {
    const path = join(directory, PID_FILE);
    return await accessing('create lock file', path, () => lockNode(directory, clock));
  } catch (error) {
    const { sqlstate, detail } = asWalcadeError(error);
    if (sqlstate !== SQLSTATE.LOCK_FILE_EXISTS) throw error;
    throw beingMade(directory, detail);
  }
}

function beingMade(directory: string, detail: string | undefined): WalcadeError {
  return new WalcadeError(
    SQLSTATE.LOCK_FILE_EXISTS,
    `a node is being made in directory "${directory}" by another process`,
    { detail, hint: 'Wait for it to end, or choose another directory with -D.' },
  );
}

/** Else a power cut could take the whole node, and its slot would stay on the upstream. */
async function syncParent(disk: Disk, path: string): Promise<void> {
  const parent = dirname(path);
  await accessing('fsync directory', parent, async () => {
    try {
      await disk.syncDirectory(parent);
    } catch (error) {
      // One that we may pass and not read: PostgreSQL leaves it alone, too (fd.c).
      if (systemErrorCode(error) !== 'EACCES') throw error;
    }
  });
}

function somethingLeft(
  failure: unknown,
  { directory, left }: { directory: string; left: readonly string[] },
): WalcadeError {
  const { sqlstate, message } = asWalcadeError(failure);
  return new WalcadeError(sqlstate, message, {
    detail: `Left in "${directory}": ${left.join(', ')}.`,
    hint: 'Remove what is left, since it is no node.',
    cause: failure,
  });
}
