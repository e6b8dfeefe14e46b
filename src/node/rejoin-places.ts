/**
 * The places that a data directory and the base backup that replaces it have on the way: both are
 * in one directory, so that each step is a rename.
 *
 *   data.new   the base backup; complete once the first rename is to be made
 *   data       what the node's server runs on
 *   data.old   what it ran on, until it is removed
 */
import fs from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Disk } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import type { RejoinStep } from './rejoin-marker.ts';

export class RejoinPlaces {
  readonly data: string;
  readonly fresh: string;
  readonly old: string;
  readonly #disk: Disk;

  constructor(disk: Disk, dataDirectory: string) {
    this.#disk = disk;
    this.data = dataDirectory;
    this.fresh = `${dataDirectory}.new`;
    this.old = `${dataDirectory}.old`;
  }

  /**
   * Throws 58P02 if something is there already that is not ours, 55000 if the data directory
   * cannot be renamed.
   */
  async check(): Promise<void> {
    for (const path of [this.fresh, this.old]) {
      if (!(await isThere(path))) continue;
      throw new WalcadeError(SQLSTATE.DUPLICATE_FILE, `"${path}" exists already`, {
        detail: 'The base backup is to be put beside the data directory, under this name.',
        hint: 'Remove or rename it.',
      });
    }
    const [data, parent] = await Promise.all([fs.stat(this.data), fs.stat(dirname(this.data))]);
    if (data.dev === parent.dev) return;
    throw new WalcadeError(
      SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
      `data directory "${this.data}" is a mount point`,
      {
        detail: 'A base backup cannot be put in its place.',
        hint:
          'Move the data to a directory in it, and set "data_directory" to that; or make the ' +
          'node anew with "walcade init --with-postgres".',
      },
    );
  }

  /** Clears up what a rejoin has left that was broken off in `step`. */
  async settle(step: RejoinStep | undefined): Promise<void> {
    if (step === 'copying' || step === 'replacing') await this.removeFresh();
    if (step === 'swapping') await this.swap();
  }

  /**
   * Puts the base backup in the place of the data directory, durably, or does what is left of that,
   * and removes the old one.
   */
  async swap(): Promise<void> {
    if (await isThere(this.fresh)) {
      if (await isThere(this.data)) await this.#rename(this.data, this.old);
      await this.#rename(this.fresh, this.data);
    }
    await remove(this.old);
  }

  async removeFresh(): Promise<void> {
    await remove(this.fresh);
  }

  /** Whether the data directory is in its place, and no other. */
  async isUntouched(): Promise<boolean> {
    return !(await isThere(this.old)) && (await isThere(this.data));
  }

  async #rename(from: string, to: string): Promise<void> {
    await accessing('rename directory', from, async () => {
      await this.#disk.rename(from, to);
      await this.#disk.syncDirectory(dirname(to));
    });
  }
}

/** Tablespaces that it has links to are left. */
async function remove(path: string): Promise<void> {
  await accessing('remove directory', path, () => fs.rm(path, { recursive: true, force: true }));
}

async function isThere(path: string): Promise<boolean> {
  return (await accessing('read directory', path, () => ifThere(fs.lstat(path)))) !== undefined;
}
