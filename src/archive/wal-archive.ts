/**
 * The WAL archive as a source: what `restore_command` finds is taken into the store, from where the
 * store ends until the archive has no more, over as many timelines as it goes on to.
 *
 *   newest timeline ─▶ the segment after the store's end ─▶ compare ─▶ walk ─▶ take, branch ─▶ …
 *
 * A file is read only up to where its WAL proves true; what follows is left to others. It lives as
 * long as the receiver, which calls it while no stream is appending.
 */
import type { DiskFile } from '../base/disk.ts';
import { WalcadeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import type { HistoryFiles } from '../store/history-files.ts';
import type { WalStore } from '../store/wal-store.ts';
import { WalCorruption } from '../wal/corruption.ts';
import { fileTimelineOf } from '../wal/history.ts';
import { type Lsn, formatLsn, minLsn } from '../wal/lsn.ts';
import { segmentName, segmentStart } from '../wal/segment.ts';
import { WalWalker } from '../wal/walker.ts';
import { branchAfter, namesOfSegment } from './archived-names.ts';
import { ArchivedSegment } from './archived-segment.ts';
import { NewerTimelines, type TargetTimeline } from './newer-timelines.ts';
import type { Archive } from './restore-command.ts';

export interface WalArchiveOptions {
  archive: Archive;
  store: WalStore;
  histories: HistoryFiles;
  systemIdentifier: bigint;
  log: Log;
}

export interface ArchiveRound {
  broughtWal: boolean;
  /** Why there is no more of it, in one sentence, and what is known besides. */
  end: { reason: string; detail: string };
}

interface Round extends TargetTimeline {
  onSegment: (name: string) => void;
  signal: AbortSignal;
}

type Use<T> = (segment: ArchivedSegment, name: string) => Promise<T>;

export class WalArchive {
  readonly #options: WalArchiveOptions;
  readonly #store: WalStore;
  readonly #newerTimelines: NewerTimelines;
  /** Where WAL was found to be no WAL, as it was told last. */
  #told: string | undefined;

  constructor(options: WalArchiveOptions) {
    this.#options = options;
    this.#store = options.store;
    this.#newerTimelines = new NewerTimelines(options);
  }

  /**
   * Takes all that the archive has; `onSegment` is told which segment is asked for. The store must
   * be drained and need no rewind, and is so afterwards. Throws what a file or the command is
   * refused with: what came before it stays.
   */
  async restore(onSegment: (name: string) => void, signal: AbortSignal): Promise<ArchiveRound> {
    const { timeline, received } = this.#store;
    const target = await this.#newerTimelines.newest(this.#store, signal);
    const end = await this.#restoreSegments({ ...target, onSegment, signal });
    await this.#store.drained(signal);
    const broughtWal = this.#store.timeline !== timeline || this.#store.received > received;
    return { broughtWal, end };
  }

  async #restoreSegments(round: Round): Promise<ArchiveRound['end']> {
    const { received, proven, segmentBytes } = this.#store;
    // A record that goes on in the next segment is walked from its beginning, if that has come.
    if (segmentStart(received, segmentBytes) > proven) {
      const next = await this.#segmentAt(received, round, async () => {});
      if (next.kind === 'missing') return next.end;
    }
    const first = await this.#takeOrRewind(round);
    if (!(first instanceof WalCorruption)) return first;
    // Proven in the archive and wrong here: the unfinished record here was another one.
    const second = received > proven ? await this.#takeOrRewind(round) : first;
    if (!(second instanceof WalCorruption)) return second;
    throw new WalcadeError(
      second.sqlstate,
      `WAL of the archive does not follow this node's: ${second.message}`,
      { detail: 'Nothing was overwritten.', cause: second },
    );
  }

  /** What is wrong with the WAL, if it does not follow what is stored: none of it is kept then. */
  async #takeOrRewind(round: Round): Promise<ArchiveRound['end'] | WalCorruption> {
    try {
      return await this.#takeSegments(round);
    } catch (error) {
      if (!(error instanceof WalCorruption)) throw error;
      await this.#store.rewind(round.signal);
      return error;
    }
  }

  /** Takes segment after segment, until one is missing or is no WAL any more. */
  async #takeSegments(round: Round): Promise<ArchiveRound['end']> {
    const { proven, segmentBytes } = this.#store;
    const walker = new WalWalker({
      segmentBytes,
      systemIdentifier: this.#options.systemIdentifier,
      start: proven,
      startsAt: proven % BigInt(segmentBytes) === 0n ? 'segment' : 'record',
    });
    for (;;) {
      const take: Use<ArchiveRound['end'] | undefined> = async (segment, name) => {
        await segment.checkSame(this.#store);
        const { end, wrong } = await segment.walk(walker, round.history);
        await this.#take(segment, { name, end }, round);
        return wrong && this.#endAt(end, { segment, name, wrong });
      };
      const outcome = await this.#segmentAt(walker.received, round, take);
      if (outcome.kind === 'missing') return outcome.end;
      if (outcome.result !== undefined) return outcome.result;
    }
  }

  /** Gives what `use` makes of the segment of `position`, as the newest timeline that has it. */
  async #segmentAt<T>(
    position: Lsn,
    { history, onSegment, signal }: Round,
    use: Use<T>,
  ): Promise<{ kind: 'taken'; result: T } | { kind: 'missing'; end: ArchiveRound['end'] }> {
    const { segmentBytes, walkFrom } = this.#store;
    const named = namesOfSegment(history, position, segmentBytes);
    const details: string[] = [];
    for (const each of named) {
      const { name } = each;
      onSegment(name);
      const wanted = {
        name,
        temporaryName: 'RECOVERYXLOG',
        sizeBytes: segmentBytes,
        oldestNeeded: this.#fileOf(walkFrom),
      } as const;
      const useFile = (file: DiskFile): Promise<T> =>
        use(new ArchivedSegment(file, each, { position, segmentBytes }), name);
      const outcome = await this.#options.archive.restore(wanted, useFile, signal);
      if (outcome.kind === 'restored') return { kind: 'taken', result: outcome.result };
      details.push(outcome.why);
    }
    const names = named.map(({ name }) => name).join(' or ');
    const end = { reason: `the archive has no ${names}`, detail: details.join(' ') };
    return { kind: 'missing', end };
  }

  /** Takes a segment up to `end`, on each timeline as far as that goes. */
  async #take(
    segment: ArchivedSegment,
    { name, end }: { name: string; end: Lsn },
    { history, keep, signal }: Round,
  ): Promise<void> {
    const { log } = this.#options;
    const store = this.#store;
    if (end > store.received) log.log(`restored log file "${name}" from archive`);
    for (;;) {
      const { timeline, received } = store;
      const branch = branchAfter(history, timeline);
      const until = branch === undefined ? end : minLsn(branch.at, end);
      if (received < until) {
        await segment.take(store, until, signal);
      } else if (branch !== undefined && branch.at < end) {
        await keep();
        await store.branch(branch, signal);
        const next = `timeline ${store.timeline} at ${formatLsn(branch.at)}`;
        log.log(`timeline ${timeline} has ended: going on with ${next}`);
      } else return;
    }
  }

  /** The WAL of a file has ended before the file: told once if it is not just unwritten. */
  async #endAt(
    end: Lsn,
    { segment, name, wrong }: { segment: ArchivedSegment; name: string; wrong: WalCorruption },
  ): Promise<ArchiveRound['end']> {
    const reason = `WAL of ${name} in the archive ends at ${formatLsn(end)}`;
    const detail = wrong.message;
    if (this.#told !== reason && !(await segment.isUnwritten(wrong.lsn))) {
      this.#told = reason;
      this.#options.log.warning(
        new WalcadeError(wrong.sqlstate, reason, {
          detail: `Reading it gave: ${detail}.`,
          hint: 'The node goes on when the archive, or the upstream, has good WAL from there on.',
        }),
      );
    }
    return { reason, detail };
  }

  #fileOf(position: Lsn): string {
    const { history, segmentBytes } = this.#store;
    const timeline = fileTimelineOf(history, position, segmentBytes);
    return segmentName(timeline, position, segmentBytes);
  }
}
