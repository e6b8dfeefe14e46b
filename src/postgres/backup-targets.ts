/**
 * Where a base backup goes: the data directory and the tablespaces, mapped, checked before
 * anything is written, and made. What was made is removed again when the backup comes to nothing.
 *
 * As long as root writes into them nobody else enters: who owns a directory could put a link there
 * in place of what is about to be written. In the end they are given away, with what is in them.
 */
import {
  type FileHandle,
  constants,
  lchown,
  mkdir,
  open,
  readdir,
  realpath,
  rm,
  stat,
  statfs,
} from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { accessing, ifThere } from '../base/file-access-error.ts';
import { formatBytes } from '../base/format-bytes.ts';
import type { BackupContents, SourceTablespace } from './backup-command.ts';
import type { ServerUser } from './server-user.ts';

/** One directory that a backup fills. */
export interface BackupTarget {
  /** The tablespace; undefined for the data directory. */
  readonly tablespace: SourceTablespace | undefined;
  readonly directory: string;
  /** What is to come into it, as the server reckons. */
  readonly bytes: number;
}

/**
 * The targets of a backup by OID, whatever order the server's file system has them in, the data
 * directory as the last. Throws 22023 if `mapping` names what is
 * no tablespace, or has two of them in one directory.
 */
export function chooseTargets(
  contents: BackupContents,
  { directory, mapping }: { directory: string; mapping: ReadonlyMap<string, string> },
): BackupTarget[] {
  const tablespaces = [...contents.tablespaces].sort((a, b) => Number(a.oid) - Number(b.oid));
  for (const location of mapping.keys()) {
    if (tablespaces.some((tablespace) => tablespace.location === location)) continue;
    const there = tablespaces.map((tablespace) => `"${tablespace.location}"`).join(', ');
    throw new WalcadeError(
      SQLSTATE.INVALID_PARAMETER_VALUE,
      `tablespace mapping names "${location}", where the server has no tablespace`,
      {
        detail:
          there === ''
            ? 'The server has no tablespaces but those in its data directory.'
            : `The server has tablespaces at ${there}.`,
      },
    );
  }
  const targets = tablespaces.map((tablespace) => ({
    tablespace,
    directory: mapping.get(tablespace.location) ?? tablespace.location,
    bytes: tablespace.bytes,
  }));
  return [...targets, { tablespace: undefined, directory, bytes: contents.dataDirectoryBytes }];
}

/** A target as the file system knows it. */
interface Place {
  target: BackupTarget;
  /** Without symbolic links, so that two names of one place are equal. */
  realPath: string;
  /** The directory itself, or the one it is to be made in. */
  nearest: string;
  existed: boolean;
}

/** One that is ours now, and whose it was before. */
interface BegunPlace extends Place {
  before: { uid: number; gid: number; ino: number };
}

const OWN = process.geteuid?.() ?? 0;

/** The directories of a backup; they live on, unless `remove` is called. */
export class BackupDirectories {
  readonly #places: readonly Place[];
  readonly #begun: BegunPlace[] = [];

  private constructor(places: readonly Place[]) {
    this.#places = places;
  }

  /**
   * Makes sure that each target can be made, or is there and empty, that none is inside another,
   * and that there is room for all. Throws what is wrong: 58P01, 58P02, 22023 or 53100.
   */
  static async check(targets: readonly BackupTarget[]): Promise<BackupDirectories> {
    const places: Place[] = [];
    for (const target of targets) {
      const place = await findPlace(target);
      for (const other of places) refuseOverlap(place, other);
      places.push(place);
    }
    await checkRoom(places);
    return new BackupDirectories(places);
  }

  /**
   * Makes them, for us alone to enter. Gives the directories whose names have changed, which are to
   * be synced.
   */
  async make(): Promise<string[]> {
    const changed: string[] = [];
    for (const place of this.#places) {
      const { directory } = place.target;
      if (!place.existed) {
        await accessing('create directory', directory, () => mkdir(directory, { mode: 0o700 }));
        changed.push(place.nearest);
      }
      await accessing('set permissions of directory', directory, () =>
        withDirectory(place, async (file) => {
          const before = await file.stat();
          this.#begun.push({ ...place, before });
          if (before.uid !== OWN) await file.chown(OWN, before.gid);
          await file.chmod(0o700);
        }),
      );
      changed.push(directory);
    }
    return changed;
  }

  /** Gives them to `user`, durably. */
  async giveTo({ uid, gid }: ServerUser): Promise<void> {
    for (const place of this.#begun) {
      const { directory } = place.target;
      await accessing('change the owner of directory', directory, () =>
        withDirectory(place, async (file) => {
          // One that is elsewhere now, and another in its place, is not ours to give.
          const { ino } = await file.stat();
          if (ino !== place.before.ino) throw replaced(directory);
          await file.chown(uid, gid);
          await file.sync();
        }),
      );
    }
  }

  /** Removes what was made, and what was put into it since. */
  async remove(): Promise<void> {
    for (const { target, realPath, existed, before } of this.#begun) {
      await removeFilled(target.directory, existed);
      if (existed && before.uid !== OWN) await lchown(realPath, before.uid, before.gid);
    }
  }

  /** Where the tablespaces are, and whether there were directories before. */
  get tablespaces(): PlacedTablespace[] {
    return this.#places.flatMap(({ target: { tablespace, directory }, existed }) =>
      tablespace === undefined ? [] : [{ oid: tablespace.oid, location: directory, existed }],
    );
  }
}

/** A tablespace of a base backup. */
export interface PlacedTablespace {
  oid: string;
  location: string;
  /** Whether its directory was there, and empty, before the backup. */
  existed: boolean;
}

/**
 * Removes what is in the tablespaces of a base backup that nobody is to use, and their directories
 * but for those that were there before.
 */
export async function removeTablespaces(tablespaces: readonly PlacedTablespace[]): Promise<void> {
  for (const { location, existed } of tablespaces) await removeFilled(location, existed);
}

async function removeFilled(directory: string, existed: boolean): Promise<void> {
  await accessing('remove directory', directory, async () => {
    const names = existed ? await readdir(directory) : [''];
    for (const name of names) {
      await rm(join(directory, name), { recursive: true, force: true });
    }
  });
}

/** Does `action` with the directory itself, whatever its name leads to meanwhile. */
async function withDirectory(
  { realPath }: Place,
  action: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW } = constants;
  const file = await open(realPath, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    await action(file);
  } finally {
    await file.close();
  }
}

function replaced(directory: string): WalcadeError {
  return new WalcadeError(
    SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE,
    `directory "${directory}" was replaced while a base backup was written to it`,
  );
}

async function findPlace(target: BackupTarget): Promise<Place> {
  const { directory } = target;
  const found = await realPathIfThere(directory);
  if (found !== undefined) {
    await refuseUsed(target);
    return { target, realPath: found, nearest: directory, existed: true };
  }
  const parent = dirname(directory);
  const realParent = await realPathIfThere(parent);
  if (realParent === undefined) {
    throw new WalcadeError(SQLSTATE.UNDEFINED_FILE, `directory "${parent}" does not exist`, {
      detail: `${nameOf(target)} is to be made in it.`,
      hint: hintElsewhere(target) ?? 'Make it first.',
    });
  }
  const realPath = join(realParent, basename(directory));
  return { target, realPath, nearest: parent, existed: false };
}

async function realPathIfThere(path: string): Promise<string | undefined> {
  return accessing('read directory', path, () => ifThere(realpath(path)));
}

async function refuseUsed(target: BackupTarget): Promise<void> {
  const { directory } = target;
  const isDirectory = (await stat(directory)).isDirectory();
  const isEmpty =
    isDirectory &&
    (await accessing('read directory', directory, () => readdir(directory))).length === 0;
  if (isEmpty) return;
  const what = isDirectory
    ? `directory "${directory}" exists but is not empty`
    : `"${directory}" exists but is not a directory`;
  throw new WalcadeError(SQLSTATE.DUPLICATE_FILE, what, {
    detail: `${nameOf(target)} is to go there.`,
    hint: hintElsewhere(target) ?? 'Remove or empty it, or choose another directory.',
  });
}

function refuseOverlap(place: Place, other: Place): void {
  const [a, b] = [`${place.realPath}/`, `${other.realPath}/`];
  if (!a.startsWith(b) && !b.startsWith(a)) return;
  const directories = [other.target.directory, place.target.directory];
  // The data directory is the last of all, so the other one is a tablespace's.
  throw new WalcadeError(
    SQLSTATE.INVALID_PARAMETER_VALUE,
    a === b
      ? `directory "${directories[0]}" is to hold two parts of the base backup`
      : `directories "${directories[0]}" and "${directories[1]}" are inside each other`,
    {
      detail: `${nameOf(other.target)} and ${nameOf(place.target, 'in a sentence')} go there.`,
      hint: hintElsewhere(other.target),
    },
  );
}

/** What a file system has to take, and can take. */
export interface Room {
  directories: string[];
  neededBytes: number;
  freeBytes: number;
}

async function checkRoom(places: readonly Place[]): Promise<void> {
  const rooms = new Map<number, Room>();
  for (const { target, nearest } of places) {
    await accessing('read file system of directory', nearest, async () => {
      const { dev } = await stat(nearest);
      const { bavail, bsize } = await statfs(nearest);
      const room = rooms.get(dev) ?? { directories: [], neededBytes: 0, freeBytes: bavail * bsize };
      room.directories.push(target.directory);
      room.neededBytes += target.bytes;
      rooms.set(dev, room);
    });
  }
  for (const room of rooms.values()) refuseWithoutRoom(room);
}

/** Throws 53100 unless what is needed is free. */
export function refuseWithoutRoom({ directories, neededBytes, freeBytes }: Room): void {
  if (neededBytes <= freeBytes) return;
  const names = directories.map((directory) => `"${directory}"`).join(', ');
  throw new WalcadeError(
    SQLSTATE.DISK_FULL,
    `no room for a base backup of ${formatBytes(neededBytes)} in ${names}`,
    {
      detail: `The file system has ${formatBytes(freeBytes)} free.`,
      hint: 'Free space, or put tablespaces elsewhere with --tablespace-mapping.',
    },
  );
}

function nameOf({ tablespace }: BackupTarget, where?: 'in a sentence'): string {
  const the = where === undefined ? 'The' : 'the';
  if (tablespace === undefined) return `${the} data directory`;
  return `${the} tablespace that the server has at "${tablespace.location}"`;
}

function hintElsewhere({ tablespace }: BackupTarget): string | undefined {
  if (tablespace === undefined) return undefined;
  return `Use --tablespace-mapping "${tablespace.location}=DIRECTORY" to put it elsewhere.`;
}
