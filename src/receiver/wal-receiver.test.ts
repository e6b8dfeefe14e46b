/** The WAL receiver between a primary in memory and a store on a disk of the test. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { MemoryPrimaryScript } from '../../test/harness/memory-primary.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import { receive, waitForConnections } from '../../test/harness/receiver-under-test.ts';
import { readAll } from '../../test/harness/test-store.ts';
import { START, made } from '../../test/harness/wal-walks.ts';
import { AssertionFailed, assert as invariant } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  COPY_DONE,
  encodeCommandComplete,
  encodeDataRow,
  encodeReadyForQuery,
  encodeRowDescription,
} from '../protocol/backend-messages.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { advance, formatLsn, parseLsn, timelineId } from '../wal/lsn.ts';
import { overlapStart } from './stored-overlap.ts';

const SECOND = '1\t0/100000\tno recovery target specified\n';
const THIRD = `${SECOND}2\t0/200000\tno recovery target specified\n`;
const FOURTH = `${THIRD}3\t0/900000\tno recovery target specified\n`;

test('history files below its timeline that an upstream has not are passed over', async (t) => {
  const { primary, histories } = await receive(t, { timeline: 3, histories: { 3: THIRD } });
  assert.equal(primary.asked('START_REPLICATION').length, 1);
  assert.equal(await histories.read(timelineId(2)), undefined);
  assert.equal((await histories.read(timelineId(3)))?.toString(), THIRD);
});

test('a history file that leads from its timeline to the upstream is needed', async (t) => {
  for (const [own, files, missing] of [
    [1, { 3: THIRD }, 2],
    [3, { 2: SECOND }, 3],
    [2, { 2: SECOND, 4: FOURTH }, 3],
  ] as const) {
    const script = { timeline: Math.max(3, ...Object.keys(files).map(Number)), histories: files };
    const { primary, log } = await receive(t, script, { timeline: own });
    assert.deepEqual(primary.asked('START_REPLICATION'), []);
    assert.match(log[0]?.message ?? '', new RegExp(`0000000${missing}\\.history": No such file`));
  }
});

test('an upstream whose history of the same timeline is another one is refused', async (t) => {
  const other = THIRD.replace('0/200000', '0/200008');
  const { primary, log, histories } = await receive(
    t,
    { timeline: 3, histories: { 2: SECOND, 3: other } },
    { kept: { 2: SECOND, 3: THIRD } },
  );
  assert.deepEqual(primary.asked('TIMELINE_HISTORY'), ['TIMELINE_HISTORY 3']);
  assert.deepEqual(primary.asked('START_REPLICATION'), []);
  assert.deepEqual([log[0]?.level, log[0]?.sqlstate], ['error', '58P02']);
  assert.match(log[0]?.detail ?? '', /number; the histories part at 0\/200000 on timeline 2\.$/);
  assert.equal((await histories.read(timelineId(3)))?.toString(), THIRD);
});

// What had been mirrored from a server that is gone was taken for the history of another one.
test('a history that is kept and not followed yet is compared with the upstream too', async (t) => {
  const { primary, log, histories } = await receive(
    t,
    { timeline: 2, histories: { 2: SECOND.replace('no', 'another') } },
    { timeline: 1, kept: { 2: SECOND } },
  );
  assert.deepEqual(primary.asked('START_REPLICATION'), []);
  assert.deepEqual([log[0]?.level, log[0]?.sqlstate], ['error', '58P02']);
  assert.match(log[0]?.detail ?? '', /timeline number, at 0\/100000\.$/);
  assert.equal((await histories.read(timelineId(2)))?.toString(), SECOND);
});

test('WAL that was reported, proved corrupt, and is gone upstream, is explained', async (t) => {
  // A slot lets go of a segment whose end was reported, even if a record in it is unproven yet.
  const { wal } = made([{ bodyBytes: 500_000 }, { bodyBytes: 1_200_000 }, { bodyBytes: 100 }]);
  const { primary, node, log } = await receive(t, { walEnd: advance(START, wal.length) });
  wal.writeUInt8(wal.readUInt8(1_500_000) ^ 1, 1_500_000);
  const whole = 1_600_000;
  await primary.sendWal(START, wal.subarray(0, whole), advance(START, wal.length));
  for (let turn = 0; turn < 5; turn += 1) await settle();
  assert.equal(node.store.flushed, advance(START, whole));
  await primary.sendWal(advance(START, whole), wal.subarray(whole), advance(START, wal.length));
  await waitForConnections(primary, 2);
  assert.equal(primary.asked('START_REPLICATION').length, 2);
  const gone = 'requested WAL segment 000000010000000000000001 has already been removed';
  await primary.say(encodeErrorResponse(new WalcadeError(SQLSTATE.UNDEFINED_FILE, gone), 'ERROR'));
  const needed = formatLsn(node.store.received);
  const { level, message, detail, hint } = log.at(-1) ?? assert.fail();
  assert.deepEqual([level, message], ['error', gone]);
  assert.equal(
    detail,
    `This node needs WAL from ${needed} on. It had reported all up to ` +
      `${formatLsn(advance(START, whole))} as durable before that proved corrupt.`,
  );
  assert.match(hint ?? '', /^Point primary_conninfo at a server that still has this WAL/);
});

test('WAL of another history is refused where they meet, nothing is overwritten', async (t) => {
  // Two promotions at one point have the same timeline number and may have the same history file.
  const { wal } = made([{ bodyBytes: 1_000 }, { bodyBytes: 9_000 }, { bodyBytes: 500 }]);
  const walEnd = advance(START, wal.length);
  const half = advance(START, 10_200);
  const { primary, node, log } = await receive(t, { walEnd });
  await primary.sendWal(START, wal.subarray(0, 10_200), walEnd);
  await node.store.drained(node.ended);
  primary.hangUp();
  await waitForConnections(primary, 2);

  // It asks for the page of the last byte that is served, and takes it from two messages.
  const { segmentBytes } = node.store;
  const start = overlapStart({ served: node.store.served.value, received: half, segmentBytes });
  assert.ok(start < half);
  const asked = `START_REPLICATION PHYSICAL ${formatLsn(start)} TIMELINE 1`;
  assert.equal(primary.asked('START_REPLICATION').at(-1), asked);
  const other = Buffer.from(wal.subarray(Number(start - START)));
  other.writeUInt8(other.readUInt8(1_000) ^ 1, 1_000);
  await primary.sendWal(start, other.subarray(0, 900), walEnd);
  await primary.sendWal(advance(start, 900), other.subarray(900), walEnd);
  const { level, message } = log.at(-1) ?? assert.fail();
  const place = formatLsn(advance(start, 1_000));
  assert.equal(message, `WAL of the upstream differs from this node's at ${place}`);
  assert.equal(level, 'error');
  assert.equal(node.store.received, half);

  // The server that it followed has the same bytes: what follows them is new.
  await waitForConnections(primary, 3);
  await primary.sendWal(start, wal.subarray(Number(start - START)), walEnd);
  await node.store.drained(node.ended);
  assert.deepEqual(await readAll(node.store), wal);
});

test('an invariant that does not hold ends the receiver, and is not tried again', async (t) => {
  const { primary, node, ended } = await receive(t, {});
  node.store.append = () => invariant(false, 'what is appended was asked for');
  await primary.sendWal(START, Buffer.alloc(8), START);
  await assert.rejects(ended, AssertionFailed);
  assert.equal(primary.connections, 1);
});

const RESTARTS: [string, Partial<MemoryPrimaryScript>, string][] = [
  ['streams', {}, 'streaming'],
  ['waits for an upstream that is behind', { walEnd: parseLsn('0/F0000') }, 'waiting'],
  ['waits at the end of its timeline', { timeline: 2, histories: { 2: SECOND } }, 'waiting'],
  ['waits for its next attempt', { timeline: 2 }, 'connecting'],
];

for (const [does, script, state] of RESTARTS) {
  test(`a receiver that ${does} begins anew at once when it is restarted`, async (t) => {
    const { primary, receiver, log } = await receive(t, script, { timeline: 1 });
    if (script.histories !== undefined) await primary.say(...endOfTimeline('2', '0/100000'));
    assert.deepEqual([receiver.status.state, primary.connections], [state, 1]);

    // No time passes, and what was logged of the old upstream is logged again of the new one.
    const told = log.at(-1);
    receiver.restart('parameter "primary_conninfo" has changed');
    receiver.restart('parameter "primary_slot_name" has changed');
    for (let turn = 0; turn < 5; turn += 1) await settle();
    assert.equal(primary.connections, 2);
    const entries = log.filter(({ message }) => message.startsWith('WAL receiver restarts: '));
    assert.deepEqual(
      entries.map(({ level, message }) => [level, message]),
      [['log', 'WAL receiver restarts: parameter "primary_conninfo" has changed']],
    );
    if (script.histories === undefined) assert.deepEqual(log.at(-1), told);
  });
}

/** What a sending server says at the end of a timeline that `next` follows. */
function endOfTimeline(next: string, switchPoint: string): Buffer[] {
  const columns = ['next_tli', 'next_tli_startpos'].map((name) => ({ name, typeOid: 25 }));
  return [
    COPY_DONE,
    encodeRowDescription(columns),
    encodeDataRow([next, switchPoint]),
    encodeCommandComplete('START_STREAMING'),
    encodeCommandComplete('START_REPLICATION'),
    encodeReadyForQuery(),
  ];
}

test('a round that may not begin leaves the store and the upstream alone', async (t) => {
  let begin = (): void => {};
  const mayBegin = (): Promise<void> => new Promise((resolve) => (begin = resolve));
  const { primary } = await receive(t, {}, { mayBegin });
  await primary.clock.pass(60_000);
  assert.equal(primary.connections, 0);
  begin();
  await waitForConnections(primary, 1);
  assert.equal(primary.connections, 1);
});
