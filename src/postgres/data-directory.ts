/**
 * A data directory as it has to be before the attached server first runs in it: a standby's, with
 * configuration files that can be read on this machine.
 *
 * Nothing of ours is written but standby.signal, and what must be there and a backup may lack.
 */
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { SQLSTATE, WalcadeError, describeSystemError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import { type Lsn, type TimelineId, parseLsn, timelineId } from '../wal/lsn.ts';
import { withoutMissingIncludes } from './conf-includes.ts';
import { readControlData } from './control-data.ts';
import type { FileChanges } from './file-changes.ts';

const CONF_FILE = 'postgresql.conf';
const SIGNAL_FILE = 'standby.signal';

/** The major version that the data directory is of; throws 58P01 if it is none. */
export async function readMajor(dataDirectory: string): Promise<number> {
  let text: string;
  try {
    text = await fs.readFile(join(dataDirectory, 'PG_VERSION'), 'utf8');
  } catch (error) {
    throw new WalcadeError(
      SQLSTATE.UNDEFINED_FILE,
      `directory "${dataDirectory}" is not a database cluster directory`,
      { detail: `Could not read file "PG_VERSION" in it: ${describeSystemError(error)}.` },
    );
  }
  const major = Number.parseInt(text, 10);
  if (Number.isInteger(major)) return major;
  throw new WalcadeError(
    SQLSTATE.DATA_CORRUPTED,
    `invalid data in file "${join(dataDirectory, 'PG_VERSION')}": "${text.trim()}"`,
  );
}

/**
 * Makes the server in `dataDirectory` a standby (manual, "Standby Server Operation") that starts on
 * this machine; what is changed for it can be taken back. Debian keeps configuration files in /etc,
 * so a backup may have none: the settings that a hot standby must not have lower than the primary
 * are then written, as pg_control has them. A directive that includes a file which is not here, and
 * would end every start, is commented out.
 */
export async function makeStandby(dataDirectory: string, changes: FileChanges): Promise<void> {
  const confFile = join(dataDirectory, CONF_FILE);
  if (!(await isThere(confFile))) {
    await changes.write(confFile, Buffer.from(await minimalConf(dataDirectory)));
  }
  for (const [path, content] of await withoutMissingIncludes(confFile, dataDirectory)) {
    await changes.write(path, content);
  }
  const signalFile = join(dataDirectory, SIGNAL_FILE);
  if (!(await isThere(signalFile))) await changes.write(signalFile, Buffer.alloc(0));
}

/** Where the recovery of a base backup begins. */
export interface BackupLabel {
  start: Lsn;
  timeline: TimelineId;
}

/** What backup_label says (xlogrecovery.c, read_backup_label()); undefined without one. */
export async function readBackupLabel(dataDirectory: string): Promise<BackupLabel | undefined> {
  const path = join(dataDirectory, 'backup_label');
  const label = await accessing('read file', path, () => ifThere(fs.readFile(path, 'utf8')));
  if (label === undefined) return undefined;
  // The file's name begins with the timeline; pg_rewind writes no START TIMELINE.
  const found = /^START WAL LOCATION: ([0-9A-F]{1,8}\/[0-9A-F]{1,8}) \(file ([0-9A-F]{8})/m.exec(
    label,
  );
  const [, start, name = ''] = found ?? [];
  const timeline = Number.parseInt(name, 16);
  if (start !== undefined && timeline >= 1) {
    return { start: parseLsn(start), timeline: timelineId(timeline) };
  }
  throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `invalid data in file "${path}"`);
}

async function minimalConf(dataDirectory: string): Promise<string> {
  const { limits } = await readControlData(dataDirectory);
  const lines = Object.entries(limits).map(([name, value]) => `${name} = ${value}\n`);
  return `# The base backup had no postgresql.conf. A hot standby needs these to be at least as
# high as they are on the primary.
${lines.join('')}`;
}

/** Whether `path` leads to something. */
async function isThere(path: string): Promise<boolean> {
  return accessing('read file', path, async () => (await ifThere(fs.stat(path))) !== undefined);
}
