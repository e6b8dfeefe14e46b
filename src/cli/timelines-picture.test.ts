/** The picture that `walcade timelines` draws, for trees of all shapes. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keptSegments } from '../node/kept-segments.ts';
import type { NodeTimeline, NodeTimelines } from '../node/timelines.ts';
import { type Lsn, lsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { segmentName } from '../wal/segment.ts';
import { drawTimelines } from './timelines-picture.ts';

const MB = 1024 * 1024;

interface Shape {
  from?: readonly [parent: number, at: string];
  reason?: string;
  leftAt?: string;
  walEnd?: string;
  segments?: readonly number[];
  historyFile?: NodeTimeline['historyFile'];
}

function shape(number: number, role: NodeTimeline['role'], parts: Shape = {}): NodeTimeline {
  const timeline = timelineId(number);
  const { from, reason = 'no recovery target specified', segments = [] } = parts;
  const known = (text: string | undefined): Lsn | undefined => (text ? parseLsn(text) : undefined);
  const names = segments.map((n) => segmentName(timeline, lsn(BigInt(n) * BigInt(MB)), MB));
  return {
    timeline,
    role,
    fork: from && { parent: timelineId(from[0]), at: parseLsn(from[1]), reason },
    leftAt: known(parts.leftAt),
    walEnd: known(parts.walEnd),
    segments: keptSegments(names, MB).get(timeline),
    historyFile: parts.historyFile ?? (number === 1 ? 'missing' : 'kept'),
  };
}

function draw(
  timelines: NodeTimeline[],
  { boxes = true, columns = 80, isRunning = false } = {},
): string {
  const node: NodeTimelines = {
    systemIdentifier: 7301n,
    segmentBytes: MB,
    isRunning,
    timelines,
    problems: [],
  };
  return drawTimelines(node, { boxes, columns });
}

const TREE = [
  shape(1, 'ancestor', { leftAt: '0/51D008', walEnd: '0/51D008', segments: [4, 5] }),
  shape(2, 'branch', { from: [1, '0/401000'], walEnd: '0/412340', segments: [4] }),
  shape(3, 'ancestor', { from: [1, '0/51D008'], leftAt: '0/71D0A8', segments: [] }),
  shape(4, 'branch', { from: [3, '0/601000'], reason: 'before 2026-11-23 19:49:08+00' }),
  shape(5, 'current', { from: [3, '0/71D0A8'], walEnd: '0/912348', segments: [7, 9] }),
];

test('the current history goes straight down, branches stand beside it', () => {
  assert.equal(
    draw(TREE),
    `●  timeline 1
│    2 segments (2048 kB): 000000010000000000000004 to 000000010000000000000005
│
├─○  timeline 2, forked off timeline 1 at 0/401000
│      no recovery target specified
│      1 segment (1024 kB): 000000020000000000000004
│      holds WAL up to 0/412340 that is not in the current history
│
●  timeline 3, forked off timeline 1 at 0/51D008
│    no recovery target specified
│    no segments kept
│
├─○  timeline 4, forked off timeline 3 at 0/601000
│      before 2026-11-23 19:49:08+00
│      no segments kept
│
●  timeline 5, current, forked off timeline 3 at 0/71D0A8
     no recovery target specified
     2 segments (2048 kB): 000000050000000000000007 to 000000050000000000000009
     gap: 000000050000000000000008
     flushed to 0/912348

○  not in the current history
5 timelines, segments of 1MB, system 7301
`,
  );
});

test('in ASCII it is the same picture', () => {
  const ascii = draw(TREE, { boxes: false });
  assert.match(ascii, /^[\n -~]*$/);
  const marks: Record<string, string> = { '*': '●', o: '○', '|': '│' };
  const drawn = ascii.replaceAll('|-o', '├─○').replace(/^[*|o]/gm, (mark) => marks[mark] ?? '');
  assert.equal(drawn, draw(TREE));
});

test('a node of one timeline has no tree to explain', () => {
  const one = [shape(1, 'current', { walEnd: '0/112340', segments: [1] })];
  assert.equal(
    draw(one, { isRunning: true }),
    `●  timeline 1, current
     1 segment (1024 kB): 000000010000000000000001
     flushed to 0/112340, and more as the node runs

1 timeline, segments of 1MB, system 7301
`,
  );
});

test('WAL past the fork is a branch of its own, with what forked off it', () => {
  const timelines = [
    shape(1, 'ancestor', { leftAt: '0/400000', walEnd: '0/612340', segments: [4, 5, 6] }),
    shape(2, 'branch', { from: [1, '0/500000'] }),
    shape(3, 'current', { from: [1, '0/400000'], walEnd: '0/412340' }),
    shape(4, 'branch', { from: [3, '0/412000'], historyFile: 'missing' }),
  ];
  assert.equal(
    draw(timelines),
    `●  timeline 1
│    3 segments (3072 kB): 000000010000000000000004 to 000000010000000000000006
│
├─○  timeline 1, past 0/400000
│ │    holds WAL up to 0/612340 that is not in the current history
│ │
│ ○  timeline 2, forked off timeline 1 at 0/500000
│      no recovery target specified
│      no segments kept
│
●  timeline 3, current, forked off timeline 1 at 0/400000
│    no recovery target specified
│    no segments kept
│    flushed to 0/412340
│
╰─○  timeline 4, forked off timeline 3 at 0/412000
       no recovery target specified
       history file 00000004.history is missing
       no segments kept

○  not in the current history
4 timelines, segments of 1MB, system 7301
`,
  );
});

test('what has no known origin stands apart, after the current history', () => {
  const timelines = [
    shape(2, 'branch', { historyFile: 'damaged' }),
    shape(7, 'current', { historyFile: 'missing' }),
  ];
  assert.equal(
    draw(timelines),
    `●  timeline 7, current
     history file 00000007.history is missing
     no segments kept

○  timeline 2
     history file 00000002.history is damaged
     no segments kept

○  not in the current history
2 timelines, segments of 1MB, system 7301
`,
  );
});

test('long texts are broken to fit, and are no commands to a terminal', () => {
  const reason = `at restore point "${'word '.repeat(20)}${'x'.repeat(90)}\u001B[2J"`;
  const timelines = [shape(1, 'current', { segments: [1, 3, 5, 7, 9, 11] })];
  for (let number = 2; number < 8; number++) {
    timelines.push(shape(number, 'branch', { from: [1, '0/100000'], reason }));
  }
  for (const columns of [80, 60, 40]) {
    const picture = draw(timelines, { columns });
    assert.ok(!picture.includes('\u001B'));
    assert.match(picture, /gap: 000000010000000000000006/);
    assert.match(picture, /and 2 more gaps/);
    const tree = picture.split('\n').slice(0, -4);
    assert.deepEqual(
      tree.filter((line) => line.length > columns),
      [],
    );
  }
});

test('hundreds of timelines of which nothing is kept take as many lines as one', () => {
  const timelines = [shape(1, 'ancestor', { leftAt: '0/100' })];
  for (let number = 2; number <= 400; number++) {
    const at = (number * 0x100).toString(16);
    const from = [number - 1, `0/${at}`] as const;
    const isLast = number === 400;
    const segments = number > 397 ? [number] : [];
    const parts: Shape = isLast ? { from, segments } : { from, segments, leftAt: 'F/0' };
    timelines.push(shape(number, isLast ? 'current' : 'ancestor', parts));
  }
  for (let number = 401; number < 500; number++) {
    timelines.push(shape(number, 'branch', { from: [300, '0/100'] }));
  }
  for (let number = 500; number < 600; number++) {
    timelines.push(shape(number, 'branch', { from: [400, '0/7000000'] }));
  }
  assert.equal(
    draw(timelines),
    `●  timeline 1
│    no segments kept
│
●  495 timelines, 2 to 499
│    forked off between 0/100 and 0/18D00
│    99 of them not in the current history
│    no segments kept
│
●  timeline 398, forked off timeline 397 at 0/18E00
│    no recovery target specified
│    1 segment (1024 kB): 0000018E000000000000018E
│
●  timeline 399, forked off timeline 398 at 0/18F00
│    no recovery target specified
│    1 segment (1024 kB): 0000018F000000000000018F
│
●  timeline 400, current, forked off timeline 399 at 0/19000
│    no recovery target specified
│    1 segment (1024 kB): 000001900000000000000190
│
╰─○  100 timelines, 500 to 599
       forked off between 0/7000000 and 0/7000000
       no segments kept

○  not in the current history
599 timelines, segments of 1MB, system 7301
`,
  );
});

test('a tree of any shape has few columns', () => {
  const timelines = [shape(1, 'current')];
  // Each timeline has a branch that goes on for long and one that does not.
  for (let number = 2; number <= 1000; number++) {
    timelines.push(shape(number, 'branch', { from: [number >> 1, '0/100'], segments: [number] }));
  }
  const deepest = Math.max(
    ...draw(timelines)
      .split('\n')
      .map((line) => line.indexOf('○')),
  );
  assert.ok(deepest <= 2 * Math.log2(1000), `${deepest} columns`);
});
