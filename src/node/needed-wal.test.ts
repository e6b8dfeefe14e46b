/** Data directories and upstreams that go together or not, as a table. */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { type ControlData, parseControlData } from '../postgres/control-data.ts';
import { parseHistoryFile, rootHistory } from '../wal/history.ts';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { checkInHistory, checkNotAhead, neededWal } from './needed-wal.ts';

const STANDBY = parseControlData(
  await readFile(new URL('../../test/fixtures/control/15-standby', import.meta.url)),
);

/** Timeline 2 left timeline 1 at 0/3000. */
const PROMOTED = parseHistoryFile(timelineId(2), Buffer.from('1\t0/3000\tno recovery target\n'));
const OTHER_BRANCH = { sqlstate: '55000', message: /not in the upstream's history$/ };

test('a standby is held against the timeline that each of its positions is on', () => {
  // One that followed the promotion, with its last restartpoint before the switch, was refused.
  const cases: [string, number, string, number, boolean][] = [
    ['0/1000', 1, '0/2000', 1, true],
    ['0/1000', 1, '0/3000', 1, true],
    ['0/1000', 1, '0/4000', 2, true],
    ['0/3000', 2, '0/4000', 2, true],
    ['0/1000', 1, '0/0', 0, true],
    ['0/1000', 1, '0/3001', 1, false],
    ['0/1000', 1, '0/3000', 2, false],
    ['0/3000', 1, '0/0', 0, false],
    ['0/2000', 2, '0/4000', 2, false],
  ];
  for (const [checkpoint, timeline, minimum, minimumTimeline, isAccepted] of cases) {
    const needed = neededWal(dataAt({ checkpoint, timeline, minimum, minimumTimeline }), undefined);
    const check = (): void => checkInHistory(needed, PROMOTED);
    if (isAccepted) assert.doesNotThrow(check, `${checkpoint} ${minimum}`);
    else assert.throws(check, OTHER_BRANCH, `${checkpoint} ${minimum}`);
  }
});

test('a backup of a standby needs all that its label and its pg_control name', () => {
  const data = dataAt({ checkpoint: '0/1000', timeline: 1, minimum: '0/4000', minimumTimeline: 1 });
  const label = { start: parseLsn('0/800'), timeline: timelineId(1) };
  assert.deepEqual(neededWal(data, label), [
    { position: 0x800n, timeline: 1 },
    { position: 0x3fffn, timeline: 1 },
  ]);
  assert.throws(() => checkInHistory(neededWal(data, label), PROMOTED), OTHER_BRANCH);
  assert.doesNotThrow(() => checkInHistory(neededWal(data, label), rootHistory(timelineId(1))));
});

test('what is ahead of the upstream is refused, by position and by timeline', () => {
  const data = dataAt({ checkpoint: '0/1000', timeline: 1, minimum: '0/4000', minimumTimeline: 2 });
  const needed = neededWal(data, undefined);
  const check = (walEnd: string, timeline: number): void =>
    checkNotAhead(needed, {
      systemIdentifier: data.systemIdentifier,
      timeline: timelineId(timeline),
      walEnd: parseLsn(walEnd),
    });
  assert.doesNotThrow(() => check('0/4000', 2));
  assert.throws(
    () => check('0/3FFF', 2),
    /needs WAL at 0\/3FFF, ahead of the upstream at 0\/3FFF$/,
  );
  assert.throws(() => check('0/5000', 1), /is on timeline 2, the upstream on timeline 1$/);
});

function dataAt(at: {
  checkpoint: string;
  timeline: number;
  minimum: string;
  minimumTimeline: number;
}): ControlData {
  return {
    ...STANDBY,
    checkpoint: parseLsn(at.checkpoint),
    timeline: timelineId(at.timeline),
    minRecoveryPoint: parseLsn(at.minimum),
    minRecoveryTimeline: at.minimumTimeline === 0 ? undefined : timelineId(at.minimumTimeline),
  };
}
