/** A stopped server's WAL, in segments that no server wrote. */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { type RecordToBuild, buildWalWithPositions } from '../../test/harness/wal-builder.ts';
import { type TimelineHistory, rootHistory } from '../wal/history.ts';
import { type Lsn, advance, lsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { segmentName } from '../wal/segment.ts';
import { DataWal, readHistoryIn } from './data-wal.ts';

const SEGMENT_BYTES = 1024 * 1024;
const SYSTEM = 42n;
const START = parseLsn('0/100000');

test('WAL ends with the last record that follows the checkpoint', async (t) => {
  const folder = await makeFolder(t);
  const { records } = await writeWal(folder, { records: MANY });
  const wal = walOf([folder]);
  const [checkpoint, last] = [records[3], records.at(-1)];
  assert.equal(await wal.end({ checkpoint: checkpoint?.start as Lsn }), last?.end);
  assert.equal(await wal.end({ checkpoint: last?.start as Lsn }), last?.end);
  const beyond = advance(last?.end as Lsn, 5 * SEGMENT_BYTES);
  assert.equal(await wal.end({ checkpoint: beyond }), undefined);
});

test('segments are looked for in all folders, and commits counted over them', async (t) => {
  const [first, second] = [await makeFolder(t), await makeFolder(t)];
  const { records } = await writeWal(first, { records: MANY });
  const name = segmentName(timelineId(1), advance(START, SEGMENT_BYTES), SEGMENT_BYTES);
  await fs.rename(join(first, name), join(second, name));
  const [begin, end] = [records[10]?.start as Lsn, records.at(-1)?.end as Lsn];
  const expected = MANY.slice(10).filter(({ resourceManager }) => resourceManager === 1).length;
  const commits = await walOf([first, second]).commits(begin, end);
  assert.equal(commits?.count, expected);
  assert.equal(await walOf([first]).commits(begin, end), undefined);
});

test('the last checkpoint before a position is found, segments back', async (t) => {
  const folder = await makeFolder(t);
  const checkpoint = { checkpoint: { redo: START, timeline: 1 } };
  const many = Array.from({ length: 600 }, () => ({ bodyBytes: 5000 }));
  const { records } = await writeWal(folder, {
    records: [{}, checkpoint, {}, checkpoint, ...many],
  });
  const wal = walOf([folder]);
  const [end, second] = [records.at(-1)?.end as Lsn, records[3]?.start as Lsn];
  assert.ok(end - START > 2 * SEGMENT_BYTES);
  assert.equal(await wal.checkpointBefore(end), second);
  assert.equal(await wal.checkpointBefore(second), records[1]?.start);
  assert.equal(await wal.checkpointBefore(records[1]?.start as Lsn), undefined);
  const beyond = advance(end, 5 * SEGMENT_BYTES);
  assert.equal(await wal.checkpointBefore(beyond), undefined);
});

test('segments that only another folder has are told', async (t) => {
  const [first, second] = [await makeFolder(t), await makeFolder(t)];
  const { records } = await writeWal(first, { records: MANY });
  const end = records.at(-1)?.end as Lsn;
  const wal = walOf([first, second]);
  assert.deepEqual(await wal.outsideOfFirst(START, end), []);
  const name = segmentName(timelineId(1), START, SEGMENT_BYTES);
  await fs.rename(join(first, name), join(second, name));
  assert.deepEqual(await wal.outsideOfFirst(START, end), [join(second, name)]);
  assert.deepEqual(await wal.outsideOfFirst(advance(START, SEGMENT_BYTES), end), []);
});

test('the segment of a switch is read in the name of the newer timeline', async (t) => {
  const folder = await makeFolder(t);
  const { records } = await writeWal(folder, { records: [{}, {}] });
  const switchPoint = records[1]?.end as Lsn;
  const newer = await writeWal(folder, { records: [{}, {}, { timeline: 2 }], timeline: 2 });
  const history = { timeline: timelineId(2), entries: [{ timeline: timelineId(1), switchPoint }] };
  const checkpoint = records[0]?.start as Lsn;
  assert.equal(await walOf([folder], history).end({ checkpoint }), newer.records[2]?.end);
  assert.equal(await walOf([folder]).end({ checkpoint }), switchPoint);
});

test('what stands in the place of a segment and is none is passed by', async (t) => {
  const [first, second] = [await makeFolder(t), await makeFolder(t)];
  const { records } = await writeWal(second, { records: [{}, {}] });
  const name = segmentName(timelineId(1), START, SEGMENT_BYTES);
  await fs.symlink('/dev/zero', join(first, name));
  const checkpoint = records[0]?.start as Lsn;
  assert.equal(await walOf([first, second]).end({ checkpoint }), records[1]?.end);
  await fs.rm(join(first, name));
  await fs.mkdir(join(first, name));
  assert.equal(await walOf([first, second]).end({ checkpoint }), records[1]?.end);
});

test('a history is read where it is found first; without a file none is known', async (t) => {
  const [first, second] = [await makeFolder(t), await makeFolder(t)];
  await fs.writeFile(join(first, '00000002.history'), '1\t0/5000000\treason\n');
  await fs.writeFile(join(second, '00000002.history'), '1\t0/6000000\treason\n');
  const history = await readHistoryIn([first, second], timelineId(2));
  assert.deepEqual(history?.entries, [{ timeline: 1, switchPoint: lsn(0x5000000n) }]);
  assert.equal(await readHistoryIn([first, second], timelineId(3)), undefined);
  assert.deepEqual(await readHistoryIn([], timelineId(1)), rootHistory(timelineId(1)));
});

/** More than a segment. */
const MANY: RecordToBuild[] = Array.from({ length: 400 }, (_, i) =>
  i % 3 === 0 ? { resourceManager: 1, bodyBytes: 100 } : { bodyBytes: 5000 },
);

function walOf(folders: string[], history: TimelineHistory = rootHistory(timelineId(1))): DataWal {
  return new DataWal({ folders, history, segmentBytes: SEGMENT_BYTES, systemIdentifier: SYSTEM });
}

async function writeWal(
  folder: string,
  { records, timeline = 1 }: { records: RecordToBuild[]; timeline?: number },
) {
  const built = buildWalWithPositions({
    segmentBytes: SEGMENT_BYTES,
    start: START,
    timeline: 1,
    systemIdentifier: SYSTEM,
    records,
  });
  for (let at = 0; at < built.wal.length; at += SEGMENT_BYTES) {
    const name = segmentName(timelineId(timeline), advance(START, at), SEGMENT_BYTES);
    const content = Buffer.alloc(SEGMENT_BYTES);
    built.wal.copy(content, 0, at);
    await fs.writeFile(join(folder, name), content);
  }
  return built;
}

async function makeFolder(t: TestContext): Promise<string> {
  const folder = await fs.mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => fs.rm(folder, { recursive: true }));
  return folder;
}
