/**
 * A parameter of a node's walcade.conf is changed for good, as ALTER SYSTEM does it: whatever
 * happens meanwhile, the file is the old one or the new one, whole, and who owns and may read it is
 * as before. A file that is a link stays one.
 */
import { type FileHandle, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { accessing } from '../base/file-access-error.ts';
import { CONF_FILE_NAME, loadConfig, setParameter } from './conf-file.ts';
import { showConfig } from './parameters.ts';

/**
 * Sets parameter `name` to `value` in the file of the node in `directory`; every comment stays.
 * Throws F0000 if the files have errors, or if an included one would win; nothing is changed then.
 */
export async function changeParameter(
  directory: string,
  name: string,
  value: string,
): Promise<void> {
  const { path, text, changed } = await readChange(directory, name, value);
  if (changed !== text) await replaceFile(await realpath(path), changed);
}

/** Throws what changeParameter() would before it changes anything. */
export async function checkChange(directory: string, name: string, value: string): Promise<void> {
  await readChange(directory, name, value);
}

async function readChange(
  directory: string,
  name: string,
  value: string,
): Promise<{ path: string; text: string; changed: string }> {
  const path = resolve(directory, CONF_FILE_NAME);
  const text = await accessing('read file', path, () => readFile(path, 'utf8'));
  const changed = setParameter(text, name, value);
  const readText = async (file: string): Promise<string> =>
    file === path ? changed : readFile(file, 'utf8');
  const config = await loadConfig(directory, { readText });
  if (showConfig(config, name) !== value) throw overridden(name);
  return { path, text, changed };
}

async function replaceFile(path: string, text: string): Promise<void> {
  const { mode, uid, gid } = await stat(path);
  const temporary = `${path}.tmp`;
  await rm(temporary, { force: true });
  try {
    await accessing('write file', temporary, async () => {
      const file = await open(temporary, 'wx', 0o600);
      await closing(file, async () => {
        await file.writeFile(text);
        await file.chown(uid, gid);
        await file.chmod(mode & 0o7777);
        await file.sync();
      });
    });
    await accessing('write file', path, () => rename(temporary, path));
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  const directory = await open(dirname(path), 'r');
  await closing(directory, () => directory.sync());
}

async function closing(file: FileHandle, use: () => Promise<void>): Promise<void> {
  try {
    await use();
  } finally {
    await file.close();
  }
}

function overridden(name: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.CONFIG_FILE_ERROR,
    `parameter "${name}" is set in a file that "${CONF_FILE_NAME}" includes`,
    {
      detail: 'The setting there would win.',
      hint: 'Change it there, then run "walcade reload".',
    },
  );
}
