/** How a node goes on with an upstream that is on another timeline. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type TimelineHistory, parseHistoryFile, rootHistory } from '../wal/history.ts';
import { parseLsn, timelineId } from '../wal/lsn.ts';
import { nextStep } from './timeline-step.ts';

const ONE = rootHistory(timelineId(1));
const TWO = history(2, '1\t0/5000100\n');
const THREE = history(3, '1\t0/5000100\n2\t0/7000000\n');
/** Forked off timeline 1, before and after timeline 2 did. */
const EARLIER = history(4, '1\t0/4000000\n');
const LATER = history(4, '1\t0/6000000\n');

function history(timeline: number, text: string): TimelineHistory {
  return parseHistoryFile(timelineId(timeline), text);
}

const at = (own: TimelineHistory, proven: string, received = proven) => ({
  history: own,
  proven: parseLsn(proven),
  received: parseLsn(received),
});

const branch = (to: TimelineHistory, position: string, isFork: boolean) => ({
  kind: 'branch',
  branch: { history: to, at: parseLsn(position) },
  isFork,
});

for (const { what, own, upstream, step } of [
  { what: 'on the same timeline', own: at(THREE, '0/9000000'), upstream: THREE, step: 'stream' },
  {
    what: 'before its timeline was left',
    own: at(ONE, '0/4000000', '0/4800000'),
    upstream: THREE,
    step: 'stream',
  },
  {
    what: 'where its timeline was left',
    own: at(ONE, '0/5000100'),
    upstream: THREE,
    step: branch(TWO, '0/5000100', false),
  },
  {
    what: 'with a part of a record beyond',
    own: at(ONE, '0/5000080', '0/5600000'),
    upstream: THREE,
    step: branch(TWO, '0/5000100', false),
  },
  {
    what: 'with whole records beyond',
    own: at(TWO, '0/7000180', '0/7600000'),
    upstream: THREE,
    step: branch(THREE, '0/7000000', true),
  },
  {
    what: 'on a timeline of its own, and the upstream left their ancestor earlier',
    own: at(TWO, '0/6000000'),
    upstream: EARLIER,
    step: branch(EARLIER, '0/4000000', true),
  },
  {
    what: 'on a timeline of its own, and the upstream left their ancestor later',
    own: at(THREE, '0/8000000'),
    upstream: LATER,
    step: branch(ONE, '0/5000100', true),
  },
] as const) {
  test(`what follows for a node ${what}`, () => {
    assert.deepEqual(nextStep(upstream, own), step === 'stream' ? { kind: 'stream' } : step);
  });
}

test('histories without a common timeline are refused', () => {
  const unknown = rootHistory(timelineId(2));
  const other = history(3, '1\t0/5000100\n');
  assert.throws(() => nextStep(other, at(unknown, '0/6000000')), {
    sqlstate: '55000',
    message: "timeline 2 of this node is not in the history of the upstream's timeline 3",
    detail: 'The history is in "00000003.history".',
  });
});

// A store went on in the segments of its own timeline 2, as they have the same names.
test('an upstream that has given a number of this node to another timeline is refused', () => {
  const other = history(4, '1\t0/4000000\n2\t0/4800000\n');
  assert.throws(() => nextStep(other, at(THREE, '0/8000000')), {
    sqlstate: '55000',
    message: "timeline 2 of the upstream is another one than this node's",
    detail: 'The two histories part at 0/4000000 on timeline 1.',
  });
});
