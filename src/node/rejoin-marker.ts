/**
 * How far `walcade rejoin` has come with a node, for as long as the node's directory is not what a
 * start may be made of, or something of it lies beside its data directory.
 *
 *   copying ─▶ swapping ─▶ finishing ─▶ (no file)        with a base backup
 *             rewinding ─▶ finishing ─▶ (no file)        with pg_rewind
 *  replacing ─▶ swapping ─▶ finishing ─▶ (no file)       after a pg_rewind that was broken off
 *                          finishing ─▶ (no file)        with the data as they are
 */
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { type Disk, removeIfThere, writeFileDurably } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';

const FILE = 'walcade.rejoin';

/** What a node is in the middle of, in words that follow "It was broken off while …". */
const STEPS = {
  copying: 'a base backup was taken',
  swapping: 'the base backup was put in the place of the data directory',
  rewinding: 'pg_rewind was changing the data directory',
  replacing: 'a base backup was taken to replace what pg_rewind has left',
  finishing: 'the node was being pointed to its new upstream',
} as const;

export type RejoinStep = keyof typeof STEPS;

/** The step that a rejoin was broken off in; undefined if none was. */
export async function readRejoinStep(directory: string): Promise<RejoinStep | undefined> {
  const path = join(directory, FILE);
  const text = await accessing('read file', path, () => ifThere(fs.readFile(path, 'utf8')));
  if (text === undefined) return undefined;
  const step = text.trim();
  if (Object.hasOwn(STEPS, step)) return step as RejoinStep;
  throw new WalcadeError(SQLSTATE.DATA_CORRUPTED, `invalid data in file "${path}": "${step}"`);
}

/** Whether the data directory is what it was before, or is to be, after a rejoin broken off so. */
export function hasUsableData(step: RejoinStep | undefined): boolean {
  return step !== 'rewinding' && step !== 'replacing';
}

/** Notes durably that `step` begins. */
export async function noteRejoinStep(
  disk: Disk,
  directory: string,
  step: RejoinStep,
): Promise<void> {
  const path = join(directory, FILE);
  await accessing('write file', path, () => writeFileDurably(disk, path, Buffer.from(`${step}\n`)));
}

/** Notes durably that the node is whole. */
export async function forgetRejoin(disk: Disk, directory: string): Promise<void> {
  const path = join(directory, FILE);
  await accessing('remove file', path, async () => {
    await removeIfThere(disk, path);
    await disk.syncDirectory(directory);
  });
}

/** Throws 55000 if a rejoin of the node in `directory` was broken off, and it must not start. */
export async function checkRejoined(directory: string): Promise<void> {
  const step = await readRejoinStep(directory);
  // Until then all is as it was.
  if (step === undefined || step === 'copying') return;
  throw new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    'node has not rejoined its cluster yet',
    {
      detail: `"walcade rejoin" was broken off while ${STEPS[step]}.`,
      hint: 'Run "walcade rejoin" again: it finishes what was begun.',
    },
  );
}
