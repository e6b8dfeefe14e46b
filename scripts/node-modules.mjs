/**
 * Whether a folder's node_modules is what its package-lock.json says, and `npm ci` if it is not.
 *
 * npm writes node_modules/.package-lock.json when an installation is complete, and not before:
 * that file is the record compared here. An installation that was interrupted, made from another
 * lock file or copied from another platform does not agree with it, and is made anew.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** Runs `npm ci` in `directory` unless its node_modules is complete; throws if npm does. */
export function ensureInstalled(directory) {
  const why = whyIncomplete(directory);
  if (why === undefined) return;
  process.stderr.write(`installing the dependencies of ${directory} with npm ci: ${why}\n`);
  const npm = spawnSync('npm', ['ci', '--ignore-scripts'], {
    cwd: directory,
    stdio: ['ignore', 2, 2],
    shell: process.platform === 'win32',
  });
  if (npm.error) throw new Error(`could not start npm: ${npm.error.message}`);
  if (npm.status !== 0) throw new Error(`npm ci ended with exit status ${npm.status}`);
}

/** What is wrong with the node_modules of `directory`, in words; undefined if nothing is. */
export function whyIncomplete(directory) {
  const modules = join(directory, 'node_modules');
  if (!existsSync(modules)) return 'node_modules does not exist';
  const record = join(modules, '.package-lock.json');
  if (!existsSync(record)) return 'node_modules was not completed by npm';
  const wanted = readPackages(join(directory, 'package-lock.json'));
  const installed = readPackages(record);
  for (const [path, entry] of Object.entries(wanted)) {
    if (path === '') continue;
    const present = installed[path];
    if (present === undefined) {
      if (entry.optional === true && !isForThisPlatform(entry)) continue;
      return `${path} is missing`;
    }
    if (present.version !== entry.version || present.integrity !== entry.integrity) {
      return `${path} is ${present.version}, package-lock.json has ${entry.version}`;
    }
    if (!existsSync(join(directory, path))) return `${path} is missing`;
  }
  for (const path of Object.keys(installed)) {
    if (wanted[path] === undefined) return `${path} is not in package-lock.json`;
  }
  return undefined;
}

function readPackages(file) {
  return JSON.parse(readFileSync(file, 'utf8')).packages ?? {};
}

/** Whether npm would install `entry` here; one that names its libc may be missing anywhere. */
function isForThisPlatform({ os, cpu, libc }) {
  const fits = (list, value) =>
    list === undefined ||
    (!list.includes(`!${value}`) && (list.includes(value) || list.every((x) => x.startsWith('!'))));
  return libc === undefined && fits(os, process.platform) && fits(cpu, process.arch);
}
