/** What it means to join an upstream, as a table; what is served here ends at 0/300. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type TimelineHistory, parseHistoryFile } from '../wal/history.ts';
import { formatLsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { joinOf } from './upstream-join.ts';

/** `2: 1 0/200`, the history of timeline 2, which left 1 at 0/200. */
function history(text: string): TimelineHistory {
  const [timeline, entries = ''] = text.split(':');
  const lines = entries.split(',').map((entry) => entry.trim().replace(' ', '\t'));
  return parseHistoryFile(timelineId(Number(timeline)), lines.join('\n'));
}

const CASES: [says: string, own: string, upstream: string, walEnd: string, join: string][] = [
  ['that has all', '1', '1', '0/300', 'continues'],
  ['that has more', '1', '1', '0/400', 'continues'],
  ['that lacks some', '1', '1', '0/2FF', 'behind'],
  ['whose timeline began where this node is', '1', '2: 1 0/300', '0/300', 'continues'],
  ['whose timeline began later', '1', '2: 1 0/380', '0/400', 'continues'],
  ['whose timeline began earlier', '1', '2: 1 0/200', '0/400', 'forked 1 0/200'],
  ['two timelines on', '1', '3: 1 0/300, 2 0/300', '0/400', 'continues'],
  [
    'two timelines on, the first begun earlier',
    '1',
    '3: 1 0/200, 2 0/300',
    '0/400',
    'forked 1 0/200',
  ],
  ['that is still on the timeline before', '2: 1 0/200', '1', '0/200', 'behind'],
  ['that went on with the timeline before', '2: 1 0/200', '1', '0/400', 'behind'],
  ['that left the timeline elsewhere', '2: 1 0/200', '3: 1 0/250', '0/400', 'forked 1 0/200'],
  ['that left the timeline before', '2: 1 0/200', '3: 1 0/180', '0/400', 'forked 1 0/180'],
  ['that left it before what is kept', '2: 1 0/200', '3: 1 0/80', '0/400', 'too-far 1 0/80'],
  ['with another timeline 2', '2: 1 0/200', '2: 1 0/180', '0/400', 'contested 2 1 0/180'],
  [
    'with an ancestor of that number',
    '2: 1 0/200',
    '3: 1 0/180, 2 0/190',
    '0/400',
    'contested 2 1 0/180',
  ],
];

for (const [says, own, upstream, walEnd, expected] of CASES) {
  test(`an upstream ${says}: ${expected.split(' ')[0]}`, () => {
    const join = joinOf(
      { history: history(own), oldest: parseLsn('0/100'), served: parseLsn('0/300') },
      { history: history(upstream), walEnd: parseLsn(walEnd) },
    );
    const number = join.kind === 'contested' ? [join.timeline] : [];
    const at = 'at' in join ? [join.at.timeline, formatLsn(join.at.position)] : [];
    assert.equal([join.kind, ...number, ...at].join(' '), expected);
  });
}
