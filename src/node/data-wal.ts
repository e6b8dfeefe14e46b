/**
 * The WAL that a stopped server's data directory stands on: in its own pg_wal, or in that of its
 * node, under the names of all timelines of its history.
 *
 * Nothing is changed, and nothing is believed before it is proven. The directory is PostgreSQL's
 * user's, who may have put anything in the place of a segment: only regular files are read.
 */
import fs from 'node:fs/promises';
import { join } from 'node:path';
import { accessing } from '../base/file-access-error.ts';
import { readRegularFile } from '../postgres/file-changes.ts';
import type { ControlData } from '../postgres/control-data.ts';
import { findProvenEnd } from '../store/wal-recovery.ts';
import { CommitCounter, type Commits } from '../wal/commit-counter.ts';
import {
  type TimelineHistory,
  historyFileName,
  parseHistoryFile,
  rootHistory,
} from '../wal/history.ts';
import {
  INVALID_LSN,
  type Lsn,
  type TimelineId,
  advance,
  alignDown,
  distance,
  lsn,
  minLsn,
} from '../wal/lsn.ts';
import { PAGE_BYTES } from '../wal/page.ts';
import { segmentName, segmentStart } from '../wal/segment.ts';
import { WalCorruption, WalWalker } from '../wal/walker.ts';

const READ_BYTES = 128 * PAGE_BYTES;

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants;

/** The history of `timeline` as the first of `folders` has it; undefined if none has. */
export async function readHistoryIn(
  folders: readonly string[],
  timeline: TimelineId,
): Promise<TimelineHistory | undefined> {
  if (timeline === 1) return rootHistory(timeline);
  for (const folder of folders) {
    const path = join(folder, historyFileName(timeline));
    const content = await accessing('read file', path, () => readRegularFile(path));
    if (content !== undefined) return parseHistoryFile(timeline, content);
  }
  return undefined;
}

export interface DataWalOptions {
  /** Where segments are, those first that are believed first. */
  folders: readonly string[];
  history: TimelineHistory;
  segmentBytes: number;
  systemIdentifier: bigint;
}

export class DataWal {
  readonly #options: DataWalOptions;

  constructor(options: DataWalOptions) {
    this.#options = options;
  }

  /** Where the WAL ends that follows the last checkpoint; undefined if it is not all there. */
  async end({ checkpoint }: Pick<ControlData, 'checkpoint'>): Promise<Lsn | undefined> {
    const { segmentBytes, systemIdentifier } = this.#options;
    const walk = { from: checkpoint, startsAt: 'record' } as const;
    const origin = { segmentBytes, systemIdentifier, walk };
    const end = await findProvenEnd((position, into) => this.#read(position, into), origin);
    return end > checkpoint ? end : undefined;
  }

  /** The transactions that are committed between two records; undefined if not all is there. */
  async commits(from: Lsn, to: Lsn): Promise<Commits | undefined> {
    const { segmentBytes } = this.#options;
    const counter = new CommitCounter({ start: from, segmentBytes });
    const isWhole = await this.#readAll(from, to, (part) => counter.push(part));
    return isWhole ? counter.commits : undefined;
  }

  /** Where the last checkpoint before `position` is; undefined if WAL does not go back to it. */
  async checkpointBefore(position: Lsn): Promise<Lsn | undefined> {
    const { segmentBytes, systemIdentifier } = this.#options;
    for (let end = position; end > 0n; ) {
      const start = segmentStart(lsn(end - 1n), segmentBytes);
      const walker = new WalWalker({ segmentBytes, systemIdentifier, start, startsAt: 'segment' });
      try {
        if (!(await this.#readAll(start, end, (part) => walker.push(part)))) return undefined;
      } catch (error) {
        if (error instanceof WalCorruption) return undefined;
        throw error;
      }
      if (walker.lastCheckpoint !== undefined) return walker.lastCheckpoint.start;
      end = start;
    }
    return undefined;
  }

  /** That WAL; undefined if not all is there. */
  async read(from: Lsn, to: Lsn): Promise<Buffer | undefined> {
    const parts: Buffer[] = [];
    const isWhole = await this.#readAll(from, to, (part) => parts.push(Buffer.from(part)));
    return isWhole ? Buffer.concat(parts) : undefined;
  }

  /** The segments of that WAL that are not in the first folder, and where they are. */
  async outsideOfFirst(from: Lsn, to: Lsn): Promise<string[]> {
    const { segmentBytes, folders } = this.#options;
    const found: string[] = [];
    for (let at = segmentStart(from, segmentBytes); at < to; at = advance(at, segmentBytes)) {
      const name = this.#namesOf(at)[0] ?? '';
      const paths = folders.map((folder) => join(folder, name));
      const isThere = await Promise.all(paths.map(isRegularFile));
      const path = paths[isThere.indexOf(true)];
      if (path !== undefined && isThere[0] !== true) found.push(path);
    }
    return found;
  }

  /** Gives all of that WAL in parts that end at page boundaries; false where it is not there. */
  async #readAll(from: Lsn, to: Lsn, take: (part: Buffer) => void): Promise<boolean> {
    const buffer = Buffer.allocUnsafe(READ_BYTES);
    for (let at = from; at < to; ) {
      const end = minLsn(to, advance(alignDown(at, READ_BYTES), READ_BYTES));
      const part = buffer.subarray(0, distance(at, end));
      if ((await this.#read(at, part)) < part.length) return false;
      take(part);
      at = end;
    }
    return true;
  }

  /** Reads within one segment; 0 when there is none. */
  async #read(position: Lsn, into: Buffer): Promise<number> {
    for (const name of this.#namesOf(position)) {
      for (const folder of this.#options.folders) {
        const file = await openRegularFile(join(folder, name));
        if (file === undefined) continue;
        try {
          const start = segmentStart(position, this.#options.segmentBytes);
          return (await file.read(into, 0, into.length, distance(start, position))).bytesRead;
        } finally {
          await file.close();
        }
      }
    }
    return 0;
  }

  /** The segment of `position` in the names that it may have, newest timeline first. */
  #namesOf(position: Lsn): string[] {
    const { history, segmentBytes } = this.#options;
    const { timeline, entries } = history;
    const start = segmentStart(position, segmentBytes);
    const end = advance(start, segmentBytes);
    const timelines = [...entries.map((entry) => entry.timeline), timeline];
    return timelines
      .filter((_, index) => {
        const begin = entries[index - 1]?.switchPoint ?? INVALID_LSN;
        const left = entries[index]?.switchPoint ?? end;
        return begin < end && left > start;
      })
      .toReversed()
      .map((each) => segmentName(each, position, segmentBytes));
  }
}

async function isRegularFile(path: string): Promise<boolean> {
  const file = await openRegularFile(path);
  await file?.close();
  return file !== undefined;
}

async function openRegularFile(path: string): Promise<fs.FileHandle | undefined> {
  let file: fs.FileHandle;
  try {
    file = await fs.open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch {
    // What cannot be opened is not there for us: it is looked for elsewhere.
    return undefined;
  }
  if ((await file.stat()).isFile()) return file;
  await file.close();
  return undefined;
}
