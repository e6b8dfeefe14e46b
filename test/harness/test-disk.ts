/**
 * A disk in memory that can lose its power, fail and hang: what was synced is kept apart from
 * what was only written.
 *
 * A power cut freezes it: every operation from then on fails. What a machine may find when the
 * power is back is another disk (`afterPowerCut`): of what was not synced any part is there, in
 * sectors of 512 bytes; names made, renamed or removed since their directory was synced may be
 * as before or after. Any number of such disks can be made of one cut.
 */
import * as fs from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Disk, DiskFile } from '../../src/base/disk.ts';
import { Inode, type Keep } from './test-disk-inode.ts';

export type { Keep } from './test-disk-inode.ts';

export interface DiskOperation {
  /** From 1 on, in the order in which they began. */
  readonly number: number;
  readonly kind: 'read' | 'write' | 'sync' | 'names' | 'sync-directory';
  readonly path: string;
}

/** An error as Node.js throws it for a system call. */
export function systemError(code: string): Error {
  return Object.assign(new Error(`${code}: made by the test`), { code });
}

type Names = Map<string, Inode>;

interface Directory {
  names: Names;
  /** As of the last sync. */
  durable: Names;
}

export class TestDisk implements Disk {
  /** Called as each operation begins: it may throw, or delay it. */
  onOperation: (operation: DiskOperation) => void | Promise<void> = () => {};
  /** The power is cut within this operation: it is half done, and nobody is told that it was. */
  cutPowerAt = Number.POSITIVE_INFINITY;
  readonly #directories = new Map<string, Directory>();
  #operations = 0;
  #bytesRead = 0;
  #bytesWritten = 0;
  #openFiles = 0;
  #isCut = false;

  /** A disk that holds what is in `directory` now, all of it durable. */
  static async load(directory: string): Promise<TestDisk> {
    const disk = new TestDisk();
    await disk.#load(directory);
    return disk;
  }

  /** Writes all files to where they would be on a real disk, in place of what is there. */
  async save(): Promise<void> {
    for (const [directory, { names }] of this.#directories) {
      for (const [name, inode] of names) await fs.writeFile(join(directory, name), inode.bytes());
      const gone = (await fs.readdir(directory, { withFileTypes: true })).filter(
        (entry) => entry.isFile() && !names.has(entry.name),
      );
      for (const { name } of gone) await fs.rm(join(directory, name));
    }
  }

  get operations(): number {
    return this.#operations;
  }

  get bytesRead(): number {
    return this.#bytesRead;
  }

  get bytesWritten(): number {
    return this.#bytesWritten;
  }

  /** Files that were opened and not closed. */
  get openFiles(): number {
    return this.#openFiles;
  }

  get isCut(): boolean {
    return this.#isCut;
  }

  cutPower(): void {
    this.#isCut = true;
  }

  /** What may be there when the power is back; `keep` says of each thing not synced if it is. */
  afterPowerCut(keep: Keep): TestDisk {
    if (!this.#isCut) throw new Error('the power has not been cut');
    const disk = new TestDisk();
    const inodes = new Map<Inode, Inode>();
    for (const [path, { names, durable }] of this.#directories) {
      const kept: Names = new Map();
      for (const name of new Set([...durable.keys(), ...names.keys()])) {
        const [before, after] = [durable.get(name), names.get(name)];
        const inode = before === after || keep() ? after : before;
        if (inode === undefined) continue;
        const revived = inodes.get(inode) ?? inode.afterPowerCut(keep);
        inodes.set(inode, revived);
        kept.set(name, revived);
      }
      disk.#directories.set(path, { names: kept, durable: new Map(kept) });
    }
    return disk;
  }

  /** The same disk after its power was not cut but the process killed: nothing is lost yet. */
  afterKill(): TestDisk {
    if (!this.#isCut) throw new Error('the power has not been cut');
    const disk = new TestDisk();
    for (const [path, directory] of this.#directories) disk.#directories.set(path, directory);
    return disk;
  }

  async open(path: string, mode: 'read' | 'write' | 'create'): Promise<DiskFile> {
    return this.#do(mode === 'create' ? 'names' : 'read', path, () => {
      const { names } = this.#directory(path);
      const name = basename(path);
      if (mode === 'create') {
        if (names.has(name)) throw systemError('EEXIST');
        names.set(name, new Inode());
      }
      const inode = this.#inode(path);
      inode.path = path;
      return this.#file(inode);
    });
  }

  list(directory: string): Promise<string[]> {
    return this.#do('read', directory, () => [...this.#directoryAt(directory).names.keys()]);
  }

  makeDirectory(path: string): Promise<void> {
    return this.#do('names', path, () => {
      if (this.#directories.has(path)) throw systemError('EEXIST');
      this.#directories.set(path, { names: new Map(), durable: new Map() });
    });
  }

  rename(from: string, to: string): Promise<void> {
    return this.#do('names', to, () => {
      const inode = this.#inode(from);
      this.#directory(from).names.delete(basename(from));
      this.#directory(to).names.set(basename(to), inode);
      inode.path = to;
    });
  }

  remove(path: string): Promise<void> {
    return this.#do('names', path, () => {
      this.#inode(path);
      this.#directory(path).names.delete(basename(path));
    });
  }

  syncDirectory(path: string): Promise<void> {
    return this.#do('sync-directory', path, () => {
      const directory = this.#directoryAt(path);
      directory.durable = new Map(directory.names);
    });
  }

  /** Changes a byte where it lies, as a failing medium does: durable, and unseen. */
  corrupt(path: string, offset: number): void {
    this.#inode(path).flipBit(offset);
  }

  #file(inode: Inode): DiskFile {
    let isOpen = true;
    this.#openFiles += 1;
    return {
      read: (into, position) =>
        this.#do('read', inode.path, () => {
          const length = inode.read(into, position);
          this.#bytesRead += length;
          return length;
        }),
      write: (buffers, position) =>
        this.#do('write', inode.path, () => {
          inode.write(buffers, position);
          for (const { length } of buffers) this.#bytesWritten += length;
        }),
      truncate: (bytes) => this.#do('write', inode.path, () => inode.truncate(bytes)),
      sync: () => this.#do('sync', inode.path, () => inode.sync()),
      sizeBytes: () => this.#do('read', inode.path, () => inode.size),
      // There is one user here, who owns everything.
      letRead: () => Promise.resolve(),
      close: async () => {
        if (!isOpen) throw systemError('EBADF');
        isOpen = false;
        this.#openFiles -= 1;
      },
    };
  }

  /** Carries out one operation, or what the power leaves of it: of a sync, nothing. */
  async #do<T>(kind: DiskOperation['kind'], path: string, action: () => T): Promise<T> {
    this.#operations += 1;
    const number = this.#operations;
    if (this.#isCut) throw systemError('EIO');
    await this.onOperation({ number, kind, path });
    if (this.#isCut) throw systemError('EIO');
    if (number < this.cutPowerAt) return action();
    if (kind !== 'sync' && kind !== 'sync-directory') action();
    this.cutPower();
    throw systemError('EIO');
  }

  #directory(path: string): Directory {
    return this.#directoryAt(dirname(path));
  }

  #directoryAt(path: string): Directory {
    const directory = this.#directories.get(path);
    if (directory === undefined) throw systemError('ENOENT');
    return directory;
  }

  #inode(path: string): Inode {
    const inode = this.#directory(path).names.get(basename(path));
    if (inode === undefined) throw systemError('ENOENT');
    return inode;
  }

  async #load(directory: string): Promise<void> {
    const names: Names = new Map();
    for (const entry of await fs.readdir(directory, { withFileTypes: true })) {
      const path = join(directory, entry.name);
      if (entry.isDirectory()) await this.#load(path);
      if (entry.isFile()) names.set(entry.name, new Inode(await fs.readFile(path)));
    }
    this.#directories.set(directory, { names, durable: new Map(names) });
  }
}
