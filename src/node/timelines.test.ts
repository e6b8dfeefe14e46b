/** What the files of a node tell of its timelines, also when some of them are no good. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { CONTROL_DATA } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { systemClock } from '../base/clock.ts';
import { systemDisk } from '../base/disk.ts';
import { type ControlData, ControlFile } from '../store/control-file.ts';
import { formatLsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { lockNode } from './node-lock.ts';
import { readTimelines } from './timelines.ts';

/** WAL that goes from 0/100000 through three segments; the fork is in the second one. */
const OLD = made(Array.from({ length: 40 }, () => ({ bodyBytes: 60_000 })));
const FORK = OLD.records[25]?.end ?? START;
const OLD_END = OLD.records.at(-1)?.end ?? START;

async function makeNode(
  t: TestContext,
  files: Record<string, string | Buffer>,
  control: Partial<ControlData> = {},
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => rm(directory, { recursive: true }));
  await mkdir(join(directory, 'pg_wal'));
  await ControlFile.create(systemDisk, directory, {
    ...CONTROL_DATA,
    flushed: parseLsn('0/312340'),
    ...control,
  });
  for (const [name, content] of Object.entries(files)) {
    await writeFile(join(directory, 'pg_wal', name), content);
  }
  return directory;
}

/** The three segments of OLD up to `end`, zeros after it. */
function oldSegments(end = OLD_END): Record<string, Buffer> {
  const wal = Buffer.alloc(3 * MB);
  OLD.wal.copy(wal, 0, 0, Number(end - START));
  return Object.fromEntries(
    [1, 2, 3].map((n) => [`00000001000000000000000${n}`, wal.subarray((n - 1) * MB, n * MB)]),
  );
}

/** `2 current: kept, to 0/312340` for each. */
async function textsOf(directory: string): Promise<string[]> {
  const { timelines } = await readTimelines(directory);
  return timelines.map(({ timeline, role, historyFile, walEnd }) => {
    const end = walEnd === undefined ? '' : `, to ${formatLsn(walEnd)}`;
    return `${timeline} ${role}: ${historyFile}${end}`;
  });
}

function history(fork = FORK, reason = 'no recovery target specified'): string {
  return `1\t${formatLsn(fork)}\t${reason}\n`;
}

test('a new node has one timeline and nothing in it', async (t) => {
  const directory = await makeNode(t, {});
  assert.deepEqual(await textsOf(directory), ['1 current: missing, to 0/312340']);
  const { isRunning, segmentBytes, systemIdentifier, problems } = await readTimelines(directory);
  assert.deepEqual([isRunning, segmentBytes, systemIdentifier], [false, MB, 7301n]);
  assert.deepEqual(problems, []);
  const lock = await lockNode(directory, systemClock);
  await lock.describe('ready', 5432);
  assert.equal((await readTimelines(directory)).isRunning, true);
  await lock.release();
});

test('an ancestor ends where it was left, or past it where its records end', async (t) => {
  const two = { control: { timeline: timelineId(2) }, history: { '00000002.history': history() } };
  const left = await makeNode(t, { ...two.history, ...oldSegments(FORK) }, two.control);
  assert.deepEqual(await textsOf(left), [
    `1 ancestor: missing, to ${formatLsn(FORK)}`,
    '2 current: kept, to 0/312340',
  ]);
  const forked = await makeNode(t, { ...two.history, ...oldSegments() }, two.control);
  assert.equal((await textsOf(forked))[0], `1 ancestor: missing, to ${formatLsn(OLD_END)}`);
  // Half a record past the fork is none.
  const half = parseLsn('0/300000');
  const broken = await makeNode(t, { ...two.history, ...oldSegments(half) }, two.control);
  const whole = OLD.records.findLast(({ end }) => end <= half)?.end ?? START;
  assert.equal((await textsOf(broken))[0], `1 ancestor: missing, to ${formatLsn(whole)}`);
});

test('a branch goes from its fork as far as its records prove', async (t) => {
  const branch = made([{ bodyBytes: 5000 }, { bodyBytes: 70 }], { start: FORK, timeline: 2 });
  const segment = Buffer.alloc(MB);
  branch.wal.copy(segment, Number(FORK - parseLsn('0/200000')));
  const directory = await makeNode(t, {
    '00000002.history': history(),
    '000000020000000000000002': segment,
  });
  const end = branch.records.at(-1)?.end ?? START;
  assert.deepEqual(await textsOf(directory), [
    '1 current: missing, to 0/312340',
    `2 branch: kept, to ${formatLsn(end)}`,
  ]);
});

test('a file that is no good is named, and hides none of the others', async (t) => {
  const directory = await makeNode(
    t,
    {
      '00000002.history': history(),
      '00000003.history': '1\tx\u001B[2J\n',
      '00000004.history': history(OLD_END),
      '00000005.history': `${history()}\n2\t0/300000\tat restore point "a"\n`,
      '00000006.history': `${history(START)}\n2\t0/200000\t\n`,
      '000000070000000000000002': 'short',
    },
    { timeline: timelineId(5) },
  );
  await mkdir(join(directory, 'pg_wal', '00000008.history'));
  await mkdir(join(directory, 'pg_wal', '000000090000000000000002'));
  assert.deepEqual(await textsOf(directory), [
    '1 ancestor: missing',
    '2 ancestor: kept',
    '3 branch: damaged',
    '4 branch: kept',
    '5 current: kept, to 0/312340',
    '6 branch: kept',
    '7 branch: missing, to 0/200000',
    '8 branch: damaged',
    '9 branch: missing',
  ]);
  const { problems } = await readTimelines(directory);
  const folder = join(directory, 'pg_wal');
  assert.deepEqual(
    problems.map(({ message, detail }) => [message, detail]),
    [
      [
        `history file "${folder}/00000003.history" is damaged`,
        'Reading it gave: syntax error in history file: 1 x?[2J. ' +
          'Expected a write-ahead log switchpoint location.',
      ],
      [`could not read history file "${folder}/00000008.history": Is a directory`, undefined],
      [
        'history files contradict each other on timeline 2',
        `It is said to have forked off timeline 1 at ${formatLsn(FORK)} (00000005.history and 1 ` +
          'more), and to have forked off timeline 1 at 0/100000 (00000006.history); ' +
          'shown is what comes first.',
      ],
      [`could not read WAL of timeline 9 in "${folder}": Is a directory`, undefined],
    ],
  );
  for (const { hint } of problems) assert.ok(hint);
});

test('without WAL, or with a damaged control file, there is nothing to show', async (t) => {
  const directory = await makeNode(t, {});
  await rm(join(directory, 'pg_wal'), { recursive: true });
  await assert.rejects(readTimelines(directory), {
    sqlstate: '58P01',
    message: `could not open directory "${directory}/pg_wal": No such file or directory`,
  });
  await writeFile(join(directory, 'walcade.control'), 'nothing');
  await assert.rejects(readTimelines(directory), /^WalcadeError: control file .* is corrupted$/);
  await assert.rejects(readTimelines(join(directory, 'pg_wal')), /does not exist$/);
});
