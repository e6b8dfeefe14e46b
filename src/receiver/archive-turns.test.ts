/** A receiver that has an archive: it asks the archive and the upstream in turns. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryArchive } from '../../test/harness/memory-archive.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import { receive, waitForConnections } from '../../test/harness/receiver-under-test.ts';
import { readAll } from '../../test/harness/test-store.ts';
import { MB, START, made } from '../../test/harness/wal-walks.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { advance, formatLsn } from '../wal/lsn.ts';

const { wal } = made(Array.from({ length: 25 }, () => ({ bodyBytes: 100_000 })));
const END = advance(START, wal.length);
const GONE = 'requested WAL segment 000000010000000000000002 has already been removed';
const WANTED = '000000010000000000000003';

test('what the upstream has removed comes from the archive, the rest is streamed', async (t) => {
  const archive = withSegments(1);
  const { primary, node, log } = await receive(t, { walEnd: END }, { archive });
  await primary.say(encodeErrorResponse(new WalcadeError(SQLSTATE.UNDEFINED_FILE, GONE), 'ERROR'));
  const { level, message, hint } = log.at(-1) ?? assert.fail();
  assert.deepEqual([level, message], ['error', GONE]);
  assert.match(hint ?? '', /or restore_command at an archive that has it/);

  archive.putWal(1, wal.subarray(0, 2 * MB));
  await waitForConnections(primary, 2);
  const { received } = node.store;
  assert.equal(received, advance(START, 2 * MB));
  assert.match(primary.asked('START_REPLICATION').at(-1) ?? '', / 0\/[23]\w{5} TIMELINE 1$/);
  await primary.sendWal(received, wal.subarray(2 * MB), END);
  await node.store.drained(node.ended);
  assert.ok((await readAll(node.store)).equals(wal));
});

test('a node without an upstream polls the archive, and says once what it waits for', async (t) => {
  const archive = withSegments(2);
  const { primary, node, receiver, log } = await receive(t, {}, { archive, hasUpstream: false });
  const waiting = `the archive has no ${WANTED}`;
  assert.deepEqual([receiver.status.state, receiver.status.reason], ['waiting', waiting]);
  await primary.clock.pass(60_000);
  assert.equal(primary.connections, 0);
  const told = log.filter(({ message }) => message === `waiting: ${waiting}`);
  assert.deepEqual(
    told.map(({ level, detail }) => [level, detail]),
    [['log', `no file ${WANTED}`]],
  );
  // It has settled at wal_retrieve_retry_interval.
  const asked = archive.asked.length;
  await primary.clock.pass(20_000);
  assert.equal(archive.asked.length - asked, 2 * 4);

  archive.putWal(1, wal);
  await primary.clock.pass(5_000);
  assert.ok((await readAll(node.store)).equals(wal));
});

test('status names the segment that is being restored', async (t) => {
  const archive = withSegments(1);
  const states: (string | undefined)[] = [];
  archive.onAsked = ({ name }) => {
    if (name.endsWith('.history')) return;
    // The receiver is not there yet when it asks for the first time.
    if (node !== undefined) states.push(node.receiver.status.state, node.receiver.status.reason);
  };
  let node: Awaited<ReturnType<typeof receive>> | undefined;
  node = await receive(t, {}, { archive, hasUpstream: false });
  await node.primary.clock.pass(5_000);
  const [state, reason] = states;
  assert.deepEqual([state, reason], ['restoring', '000000010000000000000002 from the archive']);
});

test('an archive that fails is told of once, and no reason not to stream', async (t) => {
  const archive = withSegments(0);
  archive.onAsked = () => {
    throw new WalcadeError(SQLSTATE.EXTERNAL_ROUTINE_EXCEPTION, 'made by the test');
  };
  const { primary, node, receiver, log } = await receive(t, { walEnd: END }, { archive });
  assert.equal(receiver.status.state, 'streaming');
  await primary.sendWal(START, wal, END);
  await node.store.drained(node.ended);
  for (let connections = 2; connections < 5; connections += 1) {
    primary.hangUp();
    await waitForConnections(primary, connections);
  }
  const errors = log.filter(({ level }) => level === 'error');
  assert.deepEqual(
    errors.map(({ message }) => message),
    ['made by the test'],
  );

  // Once it works, what goes wrong is news again.
  const { onAsked } = archive;
  archive.onAsked = () => {};
  primary.hangUp();
  await waitForConnections(primary, 5);
  archive.onAsked = onAsked;
  primary.hangUp();
  await waitForConnections(primary, 6);
  assert.equal(log.filter(({ level }) => level === 'error').length, 2);
});

test('an upstream that is behind is not waited for while the archive may have WAL', async (t) => {
  const archive = withSegments(1);
  const { primary, node, log } = await receive(t, { walEnd: START }, { archive });
  await waitForConnections(primary, 6);
  assert.equal(primary.connections, 6);
  const behind = `waiting: upstream is at ${formatLsn(START)}, behind this node at `;
  assert.equal(log.filter(({ message }) => message.startsWith(behind)).length, 1);
  assert.equal(log.filter(({ message }) => message.startsWith('waiting: ')).length, 1);
  archive.putWal(1, wal);
  await waitForConnections(primary, 8);
  assert.ok((await readAll(node.store)).equals(wal));
});

test('a node with neither an upstream nor an archive says so', async (t) => {
  const { primary, receiver, log } = await receive(t, {}, { hasUpstream: false });
  await primary.clock.pass(60_000);
  const message = 'specified neither "primary_conninfo" nor "restore_command"';
  assert.deepEqual([receiver.status.state, receiver.status.reason], ['waiting', message]);
  assert.deepEqual(
    log.map((entry) => [entry.level, entry.message]),
    [['warning', message]],
  );
});

test('after a restart the archive is asked at once', async (t) => {
  const archive = withSegments(0);
  const { primary, receiver } = await receive(t, {}, { archive, hasUpstream: false });
  const asked = archive.asked.length;
  receiver.restart('the test wants it');
  await settle();
  assert.ok(archive.asked.length > asked);
  assert.equal(primary.connections, 0);
});

/** An archive with the first segments of `wal`. */
function withSegments(segments: number): MemoryArchive {
  const archive = new MemoryArchive();
  archive.putWal(1, wal.subarray(0, segments * MB));
  return archive;
}
