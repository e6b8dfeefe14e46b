/**
 * What a node still asks for when its upstream has gone on to another timeline.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseHistoryFile, rootHistory } from '../wal/history.ts';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { timelineEndBehind } from './timeline-end.ts';

const history = parseHistoryFile(
  timelineId(3),
  Buffer.from('1\t0/5000100\tno recovery target specified\n\n2\t0/7000000\tno recovery target\n'),
);

const at = (timeline: number, proven: string, received: string) => ({
  timeline: timelineId(timeline),
  proven: parseLsn(proven),
  received: parseLsn(received),
});

test('a part of a record beyond the switch point is no fork: the timeline has ended', () => {
  const end = { next: timelineId(2), switchPoint: parseLsn('0/5000100') };
  assert.deepEqual(timelineEndBehind(history, at(1, '0/5000100', '0/5600000')), end);
  assert.deepEqual(timelineEndBehind(history, at(1, '0/5000080', '0/5000101')), end);
});

for (const { what, node } of [
  { what: 'nothing beyond the switch point', node: at(1, '0/5000100', '0/5000100') },
  { what: 'less than the switch point', node: at(1, '0/4000000', '0/4800000') },
  { what: 'whole records beyond the switch point', node: at(1, '0/5000180', '0/5600000') },
  { what: "the upstream's own timeline", node: at(3, '0/8000000', '0/9000000') },
  { what: 'a timeline that is not in the history', node: at(4, '0/5000100', '0/5600000') },
]) {
  test(`a node with ${what} asks the upstream`, () => {
    assert.equal(timelineEndBehind(history, node), undefined);
  });
}

test('a history that could not be fetched yet decides nothing', () => {
  const unknown = rootHistory(timelineId(2));
  assert.equal(timelineEndBehind(unknown, at(1, '0/5000100', '0/5600000')), undefined);
});
