/**
 * Which timeline a node that reads an archive goes on to: the newest of those that the archive has
 * a history file of, if it grew out of what the node has (xlogrecovery.c, rescanLatestTimeLine()).
 *
 * History files are numbered without a gap: the first one that is missing ends the search. They are
 * kept only when the node goes over: of a timeline that it never gets WAL of nobody is told, least
 * of all the attached server. It lives as long as the receiver, and says once what it has decided.
 */
import type { DiskFile } from '../base/disk.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import { partingPoint } from '../wal/history-parting.ts';
import {
  type TimelineHistory,
  historyFileName,
  isInHistory,
  parseHistoryFile,
} from '../wal/history.ts';
import { type Lsn, type TimelineId, formatLsn, timelineId } from '../wal/lsn.ts';
import type { Archive } from './restore-command.ts';

/** PostgreSQL gives %r no name when it asks for a history file (xlogarchive.c). */
const NO_SEGMENT = '0'.repeat(24);
/** A command that brings a file whatever it is asked for must not be asked for ever. */
const FILES_MAX = 1000;
const FILE_BYTES_MAX = 1024 * 1024;

export interface NewerTimelinesOptions {
  archive: Archive;
  histories: HistoryFiles;
  log: Log;
}

/** What a node has: what it goes on to must not have left it before `proven`. */
export interface OwnWal {
  history: TimelineHistory;
  proven: Lsn;
}

/** What a node goes on to. */
export interface TargetTimeline {
  history: TimelineHistory;
  /** Keeps its history file, and those before it, durably: before the store branches. */
  keep: () => Promise<void>;
}

interface Candidate {
  history: TimelineHistory;
  content: Buffer;
  /** It is here already. */
  isKept: boolean;
}

export class NewerTimelines {
  readonly #options: NewerTimelinesOptions;
  readonly #refused = new Set<TimelineId>();
  #told: TimelineId | undefined;

  constructor(options: NewerTimelinesOptions) {
    this.#options = options;
  }

  /**
   * What to go on to; the node's own timeline if there is no newer one to follow. Throws what the
   * command or a history file is refused with.
   */
  async newest(own: OwnWal, signal: AbortSignal): Promise<TargetTimeline> {
    const candidates = await this.#candidates(own.history.timeline, signal);
    for (const [index, { history }] of [...candidates.entries()].toReversed()) {
      const refusal = whyNotFollowed(history, own);
      if (refusal !== undefined) {
        this.#refuse(history.timeline, refusal);
        continue;
      }
      this.#tellTarget(history.timeline);
      return { history, keep: () => this.#keep(candidates.slice(0, index + 1)) };
    }
    return { history: own.history, keep: async () => {} };
  }

  /** What is newer than `own`, here or in the archive, oldest first. */
  async #candidates(own: TimelineId, signal: AbortSignal): Promise<Candidate[]> {
    const candidates: Candidate[] = [];
    while (candidates.length < FILES_MAX) {
      const timeline = timelineId(own + candidates.length + 1);
      const kept = await this.#options.histories.read(timeline);
      const content = kept ?? (await this.#restore(timeline, signal));
      if (content === undefined) break;
      const history = parseHistoryFile(timeline, content);
      candidates.push({ history, content, isKept: kept !== undefined });
    }
    return candidates;
  }

  async #restore(timeline: TimelineId, signal: AbortSignal): Promise<Buffer | undefined> {
    const name = historyFileName(timeline);
    const wanted = { name, temporaryName: 'RECOVERYHISTORY', oldestNeeded: NO_SEGMENT } as const;
    const read = (file: DiskFile): Promise<Buffer> => readHistory(name, file);
    const outcome = await this.#options.archive.restore(wanted, read, signal);
    return outcome.kind === 'restored' ? outcome.result : undefined;
  }

  async #keep(candidates: readonly Candidate[]): Promise<void> {
    const { histories, log } = this.#options;
    for (const { history, content, isKept } of candidates) {
      if (isKept) continue;
      await histories.keep(history.timeline, content);
      log.log(`restored log file "${historyFileName(history.timeline)}" from archive`);
    }
  }

  #tellTarget(timeline: TimelineId): void {
    if (this.#told === timeline) return;
    this.#told = timeline;
    this.#options.log.log(`new target timeline is ${timeline}`);
  }

  #refuse(timeline: TimelineId, refusal: WalcadeError): void {
    if (this.#refused.has(timeline)) return;
    this.#refused.add(timeline);
    this.#options.log.warning(refusal);
  }
}

/**
 * Why a node does not go on to the timeline of `history`, in PostgreSQL's words; undefined if it
 * does. A timeline that forked off before what the node has is followed from a live upstream only.
 */
export function whyNotFollowed(history: TimelineHistory, own: OwnWal): WalcadeError | undefined {
  const { timeline } = history;
  const refuse = (message: string, detail: string): WalcadeError =>
    new WalcadeError(SQLSTATE.OBJECT_NOT_IN_PREREQUISITE_STATE, message, {
      detail: `${detail} The node stays on timeline ${own.history.timeline}.`,
    });
  const parting = partingPoint(own.history, history);
  const isChild = isInHistory(history, own.history.timeline);
  if (isChild && parting !== undefined && parting.position >= own.proven) return undefined;
  const file = `"${historyFileName(timeline)}" of the archive`;
  const current = `database system timeline ${own.history.timeline}`;
  if (!isChild || parting?.timeline !== own.history.timeline) {
    const where =
      parting?.timeline === undefined
        ? `The history in ${file} has nothing in common with this node's.`
        : `The history in ${file} left this node's at ${formatLsn(parting.position)}.`;
    return refuse(`new timeline ${timeline} is not a child of ${current}`, where);
  }
  return refuse(
    `new timeline ${timeline} forked off current ${current} ` +
      `before current recovery point ${formatLsn(own.proven)}`,
    `It forked off at ${formatLsn(parting.position)}, as ${file} says.`,
  );
}

async function readHistory(name: string, file: DiskFile): Promise<Buffer> {
  const content = Buffer.alloc(Math.min(await file.sizeBytes(), FILE_BYTES_MAX + 1));
  const length = await file.read(content, 0);
  if (length <= FILE_BYTES_MAX) return content.subarray(0, length);
  throw new WalcadeError(
    SQLSTATE.DATA_CORRUPTED,
    `archive file "${name}" has more than ${FILE_BYTES_MAX} bytes`,
    { detail: 'No history file is so long.' },
  );
}
