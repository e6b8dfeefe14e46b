/** History files as PostgreSQL writes, copies and refuses them. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import {
  historyFileName,
  isInHistory,
  parseHistoryFile,
  parseHistoryFileName,
  rootHistory,
  switchPointOf,
  timelineOf,
} from './history.ts';
import { parseLsn, timelineId } from './lsn.ts';

const THREE = timelineId(3);
const FILE =
  '1\t0/501D008\tno recovery target specified\n\n2\t0/6000000\tbefore 2026-05-01 10:00:00+00\n';

describe('history file', () => {
  it('is named after its timeline in eight hex digits', () => {
    assert.equal(historyFileName(timelineId(26)), '0000001A.history');
    assert.equal(parseHistoryFileName('0000001A.history'), 26);
    for (const name of ['1A.history', '0000001a.history', '00000000.history', 'x', '']) {
      assert.equal(parseHistoryFileName(name), undefined);
    }
  });

  it('gives the ancestors, oldest first, without blank lines and comments', () => {
    const entries = [
      { timeline: 1, switchPoint: parseLsn('0/501D008') },
      { timeline: 2, switchPoint: parseLsn('0/6000000') },
    ];
    assert.deepEqual(parseHistoryFile(THREE, FILE), { timeline: 3, entries });
    assert.deepEqual(parseHistoryFile(THREE, Buffer.from(FILE)), { timeline: 3, entries });
    assert.deepEqual(parseHistoryFile(THREE, `# 9\n  # 9\n \t\n${FILE}`), { timeline: 3, entries });
    assert.deepEqual(parseHistoryFile(THREE, ''), rootHistory(THREE));
  });

  it('is read as sscanf reads it: padded, spaced or lower-case locations', () => {
    for (const line of ['1\t1A/0000B0C0', ' 1  1a/b0c0 at "x"', '1\t0x1A/0xB0C0', '1 1A/ B0C0\r']) {
      assert.deepEqual(parseHistoryFile(THREE, line).entries, [
        { timeline: 1, switchPoint: parseLsn('1A/B0C0') },
      ]);
    }
  });

  it("is refused in PostgreSQL's words", () => {
    const table: [content: string, message: string, hint: string][] = [
      ['x\t0/1\n', 'syntax error in history file: x\t0/1', 'Expected a numeric timeline ID.'],
      ['0\t0/1', 'syntax error in history file: 0\t0/1', 'Expected a numeric timeline ID.'],
      [
        '4294967296 0/1',
        'syntax error in history file: 4294967296 0/1',
        'Expected a numeric timeline ID.',
      ],
      ['1', 'syntax error in history file: 1', 'Expected a write-ahead log switchpoint location.'],
      [
        '12/3',
        'syntax error in history file: 12/3',
        'Expected a write-ahead log switchpoint location.',
      ],
      [
        '1\t0\n',
        'syntax error in history file: 1\t0',
        'Expected a write-ahead log switchpoint location.',
      ],
      [
        '1\t0/123456789',
        'syntax error in history file: 1\t0/123456789',
        'Expected a write-ahead log switchpoint location.',
      ],
      [
        '2\t0/1\n1\t0/2',
        'invalid data in history file: 1\t0/2',
        'Timeline IDs must be in increasing sequence.',
      ],
      [
        '1\t0/1\n1\t0/2',
        'invalid data in history file: 1\t0/2',
        'Timeline IDs must be in increasing sequence.',
      ],
      [
        '3\t0/1\n',
        'invalid data in history file "00000003.history"',
        "Timeline IDs must be less than child timeline's ID.",
      ],
    ];
    for (const [content, message, hint] of table) {
      assert.throws(() => parseHistoryFile(THREE, content), { sqlstate: 'XX001', message, hint });
    }
  });
});

describe('timeline history', () => {
  const history = parseHistoryFile(THREE, FILE);

  it('says which timeline owns a position: a switch point belongs to the next one', () => {
    const table: [position: string, timeline: number][] = [
      ['0/0', 1],
      ['0/501D007', 1],
      ['0/501D008', 2],
      ['0/5FFFFFF', 2],
      ['0/6000000', 3],
      ['FFFFFFFF/FFFFFFFF', 3],
    ];
    for (const [position, timeline] of table) {
      assert.equal(timelineOf(history, parseLsn(position)), timeline);
    }
    assert.equal(timelineOf(rootHistory(THREE), parseLsn('0/0')), 3);
  });

  it('passes over an ancestor that recovery stopped before', () => {
    const early = parseHistoryFile(THREE, '1\t0/6000000\n2\t0/5000000\n');
    assert.equal(timelineOf(early, parseLsn('0/4FFFFFF')), 1);
    assert.equal(timelineOf(early, parseLsn('0/5000000')), 3);
    assert.equal(timelineOf(early, parseLsn('0/7000000')), 3);
  });

  it('leads from a timeline to its direct successor', () => {
    assert.deepEqual(switchPointOf(history, timelineId(1)), {
      next: 2,
      switchPoint: parseLsn('0/501D008'),
    });
    assert.deepEqual(switchPointOf(history, timelineId(2)), {
      next: 3,
      switchPoint: parseLsn('0/6000000'),
    });
    assert.equal(switchPointOf(history, THREE), undefined);
  });

  it('leaves a timeline where a later switch went back below its end', () => {
    // A recovery towards the latest timeline, 2, that ended before timeline 1 did.
    const undone = parseHistoryFile(THREE, '1\t0/501D008\n2\t0/4000100\n');
    const left = { next: 3, switchPoint: parseLsn('0/4000100') };
    assert.deepEqual(switchPointOf(undone, timelineId(1)), left);
    assert.deepEqual(switchPointOf(undone, timelineId(2)), left);

    // At one point each timeline is the next of the one before it.
    const atOnce = parseHistoryFile(THREE, '1\t0/501D008\n2\t0/501D008\n');
    assert.equal(switchPointOf(atOnce, timelineId(1))?.next, 2);
  });

  it('has no switch point for a timeline that is no ancestor', () => {
    const sparse = parseHistoryFile(THREE, '1\t0/501D008\n');
    assert.deepEqual(
      [1, 2, 3, 4].map((id) => isInHistory(sparse, timelineId(id))),
      [true, false, true, false],
    );
    assert.equal(switchPointOf(sparse, timelineId(1))?.next, 3);
    assert.throws(() => switchPointOf(sparse, timelineId(2)), {
      sqlstate: 'XX000',
      message: "requested timeline 2 is not in this server's history",
    });
  });
});
