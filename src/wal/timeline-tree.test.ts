/** What a set of history files says together, also when files are missing or tell two stories. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatLsn, timelineId } from './lsn.ts';
import { type TimelineInTree, buildTimelineTree, readToldHistory } from './timeline-tree.ts';

const REASON = 'no recovery target specified';

/** `told(3, '1 0/100', '2 0/200')`: the history file of timeline 3. */
function told(timeline: number, ...left: string[]) {
  const lines = left.map((text) => `${text.replace(' ', '\t')}\t${REASON}\n`);
  return readToldHistory(timelineId(timeline), Buffer.from(lines.join('\n')));
}

function tree(histories: ReturnType<typeof told>[], current: number, ...others: number[]) {
  return buildTimelineTree(histories, {
    current: timelineId(current),
    others: others.map(timelineId),
  });
}

/** `2 ancestor, 1 at 0/100, left at 0/200` for each. */
function texts(timelines: readonly TimelineInTree[]): string[] {
  return timelines.map(({ timeline, role, fork, leftAt }) => {
    const from = fork === undefined ? '' : `, ${fork.parent} at ${formatLsn(fork.at)}`;
    return `${timeline} ${role}${from}${leftAt ? `, left at ${formatLsn(leftAt)}` : ''}`;
  });
}

test('a file tells the fork and the reason of its timeline and of each ancestor', () => {
  const content =
    '# copied\n1\t0/501D008\tno recovery target specified\n\n' +
    '3\t0/6000000\tat restore point "1 A/B"\r\n4 0x0/0x7000000';
  assert.deepEqual(
    readToldHistory(timelineId(9), Buffer.from(content)).forks.map(
      ({ timeline, parent, at, reason }) => [timeline, parent, formatLsn(at), reason],
    ),
    [
      [3, 1, '0/501D008', REASON],
      [4, 3, '0/6000000', 'at restore point "1 A/B"'],
      [9, 4, '0/7000000', ''],
    ],
  );
});

test('a file that makes no sense is refused in the words of PostgreSQL', () => {
  assert.throws(() => told(2, 'x 0/100'), { sqlstate: 'XX001', message: /^syntax error/ });
  assert.throws(() => told(2, '2 0/100'), { sqlstate: 'XX001', message: /^invalid data/ });
});

test('a node of the first timeline has no history, and one timeline', () => {
  assert.deepEqual(texts(tree([], 1).timelines), ['1 current']);
});

test('ancestors are told from the branches that lead elsewhere', () => {
  const histories = [
    told(2, '1 0/400'),
    told(3, '1 0/500'),
    told(4, '1 0/500', '3 0/600'),
    told(5, '1 0/500', '3 0/700'),
    told(6, '1 0/400', '2 0/480'),
  ];
  assert.deepEqual(texts(tree(histories, 5).timelines), [
    '1 ancestor, left at 0/500',
    '2 branch, 1 at 0/400',
    '3 ancestor, 1 at 0/500, left at 0/700',
    '4 branch, 3 at 0/600',
    '5 current, 3 at 0/700',
    '6 branch, 2 at 0/480',
  ]);
  assert.deepEqual(texts(tree(histories, 1).timelines).slice(0, 2), [
    '1 current',
    '2 branch, 1 at 0/400',
  ]);
});

test('what a missing file would tell is learnt from those of its descendants', () => {
  const { timelines, contradictions } = tree([told(4, '1 0/100', '2 0/200', '3 0/300')], 4);
  assert.deepEqual(texts(timelines), [
    '1 ancestor, left at 0/100',
    '2 ancestor, 1 at 0/100, left at 0/200',
    '3 ancestor, 2 at 0/200, left at 0/300',
    '4 current, 3 at 0/300',
  ]);
  assert.deepEqual(contradictions, []);
});

test('a timeline that no file tells of stands for itself', () => {
  assert.deepEqual(texts(tree([told(2, '1 0/100')], 7, 5).timelines), [
    '1 branch',
    '2 branch, 1 at 0/100',
    '5 branch',
    '7 current',
  ]);
});

test('a recovery target below an ancestor’s switch point leaves both ancestors there', () => {
  assert.deepEqual(texts(tree([told(3, '1 0/600', '2 0/500')], 3).timelines), [
    '1 ancestor, left at 0/500',
    '2 ancestor, 1 at 0/600, left at 0/500',
    '3 current, 2 at 0/500',
  ]);
});

test('of two stories the current timeline’s is believed, else the nearest file’s', () => {
  const histories = [
    told(2, '1 0/400'),
    told(4, '1 0/300', '2 0/500'),
    told(6, '1 0/400', '5 0/700'),
    told(7, '1 0/400', '5 0/800'),
    told(5, '1 0/450'),
  ];
  const { timelines, contradictions } = tree(histories, 4);
  assert.deepEqual(texts(timelines), [
    '1 ancestor, left at 0/300',
    '2 ancestor, 1 at 0/300, left at 0/500',
    '4 current, 2 at 0/500',
    '5 branch, 1 at 0/450',
    '6 branch, 5 at 0/700',
    '7 branch, 5 at 0/800',
  ]);
  assert.deepEqual(
    contradictions.map(({ timeline, tales }) => [
      timeline,
      tales.map(({ fork, files }) => [fork.parent, formatLsn(fork.at), files]),
    ]),
    [
      [
        2,
        [
          [1, '0/300', [4]],
          [1, '0/400', [2]],
        ],
      ],
      [
        5,
        [
          [1, '0/450', [5]],
          [1, '0/400', [6, 7]],
        ],
      ],
    ],
  );
});

test('a timeline that is said to have two parents gets one', () => {
  const { timelines, contradictions } = tree(
    [told(3, '1 0/100'), told(4, '2 0/150', '3 0/200')],
    4,
  );
  assert.deepEqual(texts(timelines), [
    '1 branch',
    '2 ancestor, left at 0/150',
    '3 ancestor, 2 at 0/150, left at 0/200',
    '4 current, 3 at 0/200',
  ]);
  assert.equal(contradictions.length, 1);
});
