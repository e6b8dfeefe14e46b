/**
 * A life of a store over six timelines, with the WAL of each: for tests of what becomes of a store
 * that goes from one to the next.
 */
import assert from 'node:assert/strict';
import { writeFileDurably } from '../../src/base/disk.ts';
import { type TimelineHistory, historyFileName, parseHistoryFile } from '../../src/wal/history.ts';
import { type Lsn, advance, formatLsn, timelineId } from '../../src/wal/lsn.ts';
import { PAGE_BYTES } from '../../src/wal/page.ts';
import type { TestDisk } from './test-disk.ts';
import { WAL } from './test-store.ts';
import { type BuiltWal, type RecordToBuild, buildWalWithPositions } from './wal-builder.ts';
import { CLUSTER, MB, START } from './wal-walks.ts';

/** A timeline of the life: what it has from START on, of which the store receives up to `end`. */
export interface Line {
  history: TimelineHistory;
  historyFile: string;
  /** Where it is branched off to. */
  at: Lsn;
  wal: Buffer;
  records: BuiltWal['records'];
  end: Lsn;
}

/**
 * Two switches in one segment, the first with a part of a record behind it; one at a segment's
 * boundary; one at a page boundary, where an unfinished record has begun; and one far below what is
 * proven, in an earlier segment.
 */
export function makeLife(): Line[] {
  const one = line(undefined, START, [40, 9_000, 300_000, 200_000]);
  one.end = advance(endOf(one, 2), 90_000);
  const two = line(one, endOf(one, 2), [500, 100_000]);
  const three = line(two, two.end, [50_000], { body: Buffer.alloc(0), switchSegment: true });
  assert.equal(three.end % BigInt(MB), 0n);
  const atPageEnd = untilPageEnd(three);
  const four = line(three, three.end, [...atPageEnd, 300_000]);
  four.end = advance(endOf(four, atPageEnd.length - 1), 150_000);
  const five = line(four, endOf(four, atPageEnd.length - 1), [20_000, 1_100_000, 30_000]);
  const six = line(five, endOf(five, 0), [10_000, 400_000]);
  return [one, two, three, four, five, six];
}

function endOf({ records }: Line, index: number): Lsn {
  return records[index]?.end ?? assert.fail();
}

function line(
  parent: Line | undefined,
  at: Lsn,
  sizes: number[],
  ...records: RecordToBuild[]
): Line {
  const timeline = timelineId((parent?.history.timeline ?? 0) + 1);
  const own =
    parent === undefined ? '' : `${parent.history.timeline}\t${formatLsn(at)}\tof a test\n`;
  const historyFile = `${parent?.historyFile ?? ''}${own}`;
  const before = parent?.records.filter(({ end }) => end <= at) ?? [];
  const previous = before.at(-1)?.start;
  const built = buildWalWithPositions({
    segmentBytes: MB,
    start: at,
    timeline,
    systemIdentifier: CLUSTER,
    records: [...sizes.map((bodyBytes) => ({ bodyBytes })), ...records],
    ...(previous === undefined ? {} : { previous }),
  });
  const common = parent?.wal.subarray(0, Number(at - START)) ?? Buffer.alloc(0);
  const wal = Buffer.concat([common, built.wal]);
  return {
    history: parseHistoryFile(timeline, historyFile),
    historyFile,
    at,
    wal,
    records: [...before, ...built.records],
    end: advance(START, wal.length),
  };
}

/** Sizes of records after `parent` of which the last ends where its page does. */
function untilPageEnd(parent: Line): number[] {
  for (let bytes = PAGE_BYTES; bytes < 3 * PAGE_BYTES; bytes += 8) {
    const sizes = [70_000, bytes];
    if (line(parent, parent.end, sizes).end % BigInt(PAGE_BYTES) === 0n) return sizes;
  }
  return assert.fail('some size fills the page');
}

/** As the receiver does before it branches. */
export async function mirrorHistory(disk: TestDisk, { history, historyFile }: Line): Promise<void> {
  const path = `${WAL}/${historyFileName(history.timeline)}`;
  await writeFileDurably(disk, path, Buffer.from(historyFile));
}
