/**
 * Whether a server leads or follows. Its data directory is the only record of it: a standby has a
 * signal file, which a promotion takes away (xlogrecovery.c, FinishWalRecovery(); xlog.c,
 * StartupXLOG()). Nothing that a node wrote beside it could be as true.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ifThere } from '../base/file-access-error.ts';
import { readControlData } from './control-data.ts';

/**
 * standby    a signal file is there
 * promoting  so it is, but the server has taken a request to promote itself
 * primary    no signal file is there; whether it takes writes yet is another question
 */
export type ServerRole = 'standby' | 'promoting' | 'primary';

const SIGNAL_FILES = ['standby.signal', 'recovery.signal'] as const;

/** What a start of the server in `dataDirectory` would make it. */
export async function readServerRole(dataDirectory: string): Promise<'standby' | 'primary'> {
  for (const name of SIGNAL_FILES) {
    if ((await ifThere(stat(join(dataDirectory, name)))) !== undefined) return 'standby';
  }
  return 'primary';
}

/**
 * Whether the running server has ended recovery and takes writes: it tells its own processes so
 * just before it writes this (StartupXLOG()). After a crash the file says so before it is true
 * again, until the server has begun its recovery.
 */
export async function isInProduction(dataDirectory: string): Promise<boolean> {
  return (await readControlData(dataDirectory)).state === 'in production';
}
