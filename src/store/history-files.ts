/**
 * The timeline history files of the cluster, byte for byte as the upstream has them, in pg_wal.
 *
 * All that the upstream can serve are mirrored, also of timelines that are nobody's ancestor here:
 * a standby asks for every one between its own timeline and ours. They live as long as the store.
 */
import { type Disk, readWholeFile, writeFileDurably } from '../base/disk.ts';
import { SQLSTATE, WalcadeError, systemErrorCode } from '../base/errors.ts';
import {
  type TimelineHistory,
  beginOf,
  historyFileName,
  parseHistoryFile,
  rootHistory,
} from '../wal/history.ts';
import { describePartingPoint, partingPoint } from '../wal/history-parting.ts';
import { type TimelineId, formatLsn } from '../wal/lsn.ts';

export class HistoryFiles {
  readonly #disk: Disk;
  readonly #directory: string;

  constructor(disk: Disk, directory: string) {
    this.#disk = disk;
    this.#directory = directory;
  }

  /** The content of a history file; undefined when it is not here. */
  async read(timeline: TimelineId): Promise<Buffer | undefined> {
    try {
      return await readWholeFile(this.#disk, this.#path(timeline));
    } catch (error) {
      if (systemErrorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
  }

  /**
   * Keeps a history file durably. Refuses content that does not parse, and content that differs
   * from what is kept already: a timeline's history never changes (58P02).
   */
  async keep(timeline: TimelineId, content: Buffer): Promise<void> {
    parseHistoryFile(timeline, content);
    const present = await this.read(timeline);
    if (present?.equals(content)) return;
    if (present !== undefined) {
      throw new WalcadeError(
        SQLSTATE.DUPLICATE_FILE,
        `timeline history file "${historyFileName(timeline)}" differs from the upstream's`,
        {
          detail:
            'Two servers have taken the same timeline number' +
            `${whereTheyPart(timeline, present, content)}.`,
          hint: 'Point primary_conninfo at the server whose history this node followed.',
        },
      );
    }
    await writeFileDurably(this.#disk, this.#path(timeline), content);
  }

  /** The history of `timeline`; a timeline without a file has no known ancestors. */
  async history(timeline: TimelineId): Promise<TimelineHistory> {
    const content = await this.read(timeline);
    return content === undefined ? rootHistory(timeline) : parseHistoryFile(timeline, content);
  }

  #path(timeline: TimelineId): string {
    return `${this.#directory}/${historyFileName(timeline)}`;
  }
}

/** Two files that differ may say the same: then both timelines began at one position. */
function whereTheyPart(timeline: TimelineId, present: Buffer, content: Buffer): string {
  const own = parseHistoryFile(timeline, present);
  const point = partingPoint(own, parseHistoryFile(timeline, content));
  if (point !== undefined) return `; the histories part ${describePartingPoint(point)}`;
  return `, at ${formatLsn(beginOf(own))}`;
}
