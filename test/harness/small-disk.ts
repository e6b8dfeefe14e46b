/**
 * File systems with little room, in the place of directories of a test: as a disk that is full.
 * They are in memory, and go with the test.
 */
import { execFileSync } from 'node:child_process';
import { renameSync } from 'node:fs';
import type { TestDirectory } from './test-directory.ts';

export const canMount = process.platform === 'linux' && process.getuid?.() === 0;
export const NOT_MOUNTED = 'not run: only root can mount a file system';

/** Puts the directory `path`, in which nobody works, on a file system with so much left. */
export function mountOn(
  tree: TestDirectory,
  path: string,
  { freeMegabytes }: { freeMegabytes: number },
): void {
  const [kilobytes = ''] = execFileSync('du', ['-sk', path]).toString().split('\t');
  const size = `size=${Number(kilobytes) + freeMegabytes * 1024}k`;
  const before = `${path}.moved`;
  renameSync(path, before);
  execFileSync('mkdir', [path]);
  execFileSync('mount', ['-t', 'tmpfs', '-o', size, 'walcade-test', path]);
  const end = (): Promise<void> => {
    execFileSync('umount', ['--lazy', path]);
    return Promise.resolve();
  };
  tree.add({ name: 'file system', end });
  execFileSync('cp', ['-a', `${before}/.`, path]);
  execFileSync('rm', ['-r', before]);
}

/** Gives the file system of `path` another size. */
export function resizeMount(path: string, megabytes: number): void {
  execFileSync('mount', ['-o', `remount,size=${megabytes}m`, path]);
}
