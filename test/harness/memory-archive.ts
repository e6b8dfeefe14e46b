/**
 * A WAL archive in memory: its files by name, and what it was asked for. WAL is put into it as the
 * segments that a server on that timeline would have archived. And a store that reads it.
 */
import type { TestContext } from 'node:test';
import type { DiskFile } from '../../src/base/disk.ts';
import type { Archive, RestoreOutcome, WantedFile } from '../../src/archive/restore-command.ts';
import { type ArchiveRound, WalArchive } from '../../src/archive/wal-archive.ts';
import { type LogEntry, createLog } from '../../src/base/log.ts';
import { HistoryFiles } from '../../src/store/history-files.ts';
import { type Lsn, advance, alignDown, distance, timelineId } from '../../src/wal/lsn.ts';
import { segmentName } from '../../src/wal/segment.ts';
import { TestDisk } from './test-disk.ts';
import { StoreUnderTest, WAL, newNodeDisk } from './test-store.ts';
import { CLUSTER, MB, START } from './wal-walks.ts';

export class MemoryArchive implements Archive {
  readonly files = new Map<string, Buffer>();
  /** The names, in the order in which they were asked for. */
  readonly asked: string[] = [];
  /** Called before each answer: it may throw. */
  onAsked: (wanted: WantedFile) => void = () => {};

  /**
   * Puts `wal`, which begins at START, there as whole segments of `timeline`: those that contain a
   * part of it from `from` on. Zeros follow its end.
   */
  putWal(timeline: number, wal: Buffer, from: Lsn = START): void {
    for (let start = alignDown(from, MB); start < advance(START, wal.length); ) {
      const segment = Buffer.alloc(MB);
      wal.copy(segment, 0, distance(START, start), distance(START, start) + MB);
      this.files.set(segmentName(timelineId(timeline), start, MB), segment);
      start = advance(start, MB);
    }
  }

  putHistory(timeline: number, content: string): void {
    this.files.set(`${String(timeline).padStart(8, '0')}.history`, Buffer.from(content));
  }

  async restore<T>(
    wanted: WantedFile,
    use: (file: DiskFile) => Promise<T>,
    signal: AbortSignal,
  ): Promise<RestoreOutcome<T>> {
    signal.throwIfAborted();
    this.asked.push(wanted.name);
    this.onAsked(wanted);
    const content = this.files.get(wanted.name);
    if (content === undefined) return { kind: 'missing', why: `no file ${wanted.name}` };
    const disk = new TestDisk();
    await disk.makeDirectory('/archive');
    const file = await disk.open(`/archive/${wanted.name}`, 'create');
    await file.write([content], 0);
    return { kind: 'restored', result: await use(file) };
  }
}

/** A store on timeline 1 of CLUSTER without WAL, and an archive without files that it may read. */
export async function withArchive(t: TestContext) {
  const disk = await newNodeDisk({ timeline: timelineId(1) });
  const node = await StoreUnderTest.open(disk);
  const log: LogEntry[] = [];
  const archive = new MemoryArchive();
  const histories = new HistoryFiles(disk, WAL);
  const source = new WalArchive({
    archive,
    store: node.store,
    histories,
    systemIdentifier: CLUSTER,
    log: createLog((entry) => log.push(entry), { minimum: () => 'log' }),
  });
  const restore = (signal = new AbortController().signal): Promise<ArchiveRound> =>
    source.restore(() => {}, signal);
  t.after(() => node.stop());
  return { node, archive, histories, restore, log };
}
