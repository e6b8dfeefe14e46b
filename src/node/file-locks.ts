/**
 * Locks on open files that the operating system drops with the process, which Node.js has none of:
 * those of fs-native-extensions. Its own way to its library reads fourteen modules, a tenth of a
 * node's start, so the library is looked for first where it is on most platforms.
 */
import { createRequire } from 'node:module';
import { systemErrorCode } from '../base/errors.ts';

/** What the library exports, as index.js of the package uses it; throws EAGAIN. */
interface Library {
  tryLock(fd: number, offset: number, length: number, isExclusive: boolean): void;
  unlock(fd: number, offset: number, length: number): void;
}

const PACKAGE = 'fs-native-extensions';

const library = load();

function load(): Library {
  const load = createRequire(import.meta.url);
  const platform = `${process.platform}-${process.arch}`;
  try {
    return load(`${PACKAGE}/prebuilds/${platform}/${PACKAGE}.node`) as Library;
  } catch {
    return load(`${PACKAGE}/binding.js`) as Library;
  }
}

/** Locks all of the file, for this process alone or `shared`; false if another one has it. */
export function tryLock(fd: number, { shared = false }: { shared?: boolean } = {}): boolean {
  try {
    library.tryLock(fd, 0, 0, !shared);
    return true;
  } catch (error) {
    if (systemErrorCode(error) === 'EAGAIN') return false;
    throw error;
  }
}

export function unlock(fd: number): void {
  library.unlock(fd, 0, 0);
}
