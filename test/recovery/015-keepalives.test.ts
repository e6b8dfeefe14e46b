/**
 * Who speaks when: a relay between a primary that is scripted by the test and downstreams that are
 * raw sockets, so that every message there is can be seen (walsender.c, walreceiver.c).
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import {
  decodeHotStandbyFeedback,
  decodeKeepalive,
  decodeStatusUpdate,
} from '../../src/protocol/replication-messages.ts';
import { advance, formatLsn, lsn } from '../../src/wal/lsn.ts';
import { RawSession, describeHeard } from '../harness/raw-session.ts';
import { ScriptedPrimary } from '../harness/scripted-primary.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { buildWalWithPositions } from '../harness/wal-builder.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const SEGMENT_BYTES = 1024 * 1024;
const START = lsn(0x500000n);
const SYSTEM_IDENTIFIER = 7_300_000_000_000_000_001n;

/** More than the socket buffers between two processes hold, in segments of 1 MB. */
const { wal: WAL, records } = buildWalWithPositions({
  segmentBytes: SEGMENT_BYTES,
  start: START,
  timeline: 1,
  systemIdentifier: SYSTEM_IDENTIFIER,
  records: Array.from({ length: 24 }, () => ({ bodyBytes: 1_000_000 })),
});
const WAL_END = advance(START, WAL.length);

test('a stream begins with a status update and feedback, and answers keepalives', async (t) => {
  const { primary, relay } = await relayBehindScript(t, { wal_receiver_status_interval: '10s' });
  await primary.waitForHeard('h');

  // First 'r', then 'h' that asks for nothing, which clears what an earlier connection left.
  assert.deepEqual(
    primary.heard.map(({ body }) => String.fromCharCode(body[0] ?? 0)),
    ['r', 'h'],
  );
  const first = decodeStatusUpdate(primary.heard[0]?.body ?? assert.fail());
  assert.deepEqual([first.write, first.flush, first.apply], [START, START, lsn(0n)]);
  const feedback = decodeHotStandbyFeedback(primary.heard[1]?.body ?? assert.fail());
  assert.deepEqual([feedback.xmin, feedback.catalogXmin], [0n, 0n]);

  // A keepalive that asks is answered, one that does not ask is not.
  primary.sendKeepalive(START, { replyRequested: false });
  primary.sendKeepalive(START, { replyRequested: true });
  await primary.waitForHeard('r', 2);
  assert.equal(primary.heard.length, 3);

  // WAL is reported as written and as flushed, to its last byte.
  primary.sendWal(START, WAL.subarray(0, 100_000), WAL_END);
  await waitFor('a report of all of it', () => {
    const last = primary.heard.at(-1)?.body;
    return last !== undefined && decodeStatusUpdate(last).flush === advance(START, 100_000);
  });
  assert.equal((await relay.status()).upstream.walEnd, formatLsn(WAL_END));
});

test('an upstream that says nothing is asked after half of the time, then left', async (t) => {
  const { primary, relay } = await relayBehindScript(t, {
    wal_receiver_timeout: '2s',
    wal_receiver_status_interval: 0,
  });
  await primary.waitForHeard('h');
  const begunMs = primary.heard[1]?.atMs ?? assert.fail();
  const { body, atMs } = await primary.waitForHeard('r', 2);
  assert.equal(decodeStatusUpdate(body).replyRequested, true);
  assert.ok(atMs - begunMs > 900, `asked after ${atMs - begunMs} ms`);
  await primary.waitForStream(2);
  assert.ok(performance.now() - begunMs > 1_900);
  await relay.waitForLog(/terminating WAL receiver due to timeout/);

  // Nor is one waited for that is connected and does not answer a command.
  primary.script.silentTo = ['IDENTIFY_SYSTEM'];
  const asked = primary.commands.length;
  await waitFor('a second attempt', () => {
    const attempts = primary.commands.slice(asked);
    return attempts.filter((command) => command === 'IDENTIFY_SYSTEM').length >= 2;
  });
  primary.script.silentTo = [];
  await primary.waitForStream(3);
});

test('the upstream is answered at once also while a downstream takes nothing', async (t) => {
  const { tree, primary, relay } = await relayBehindScript(t);
  const stuck = await RawSession.start(tree, relay.port);
  assert.deepEqual(await stuck.answer(`START_REPLICATION ${formatLsn(START)}`), ['W']);
  stuck.stopReading();
  for (let at = 0; at < WAL.length; at += 100_000) {
    primary.sendWal(advance(START, at), WAL.subarray(at, at + 100_000), WAL_END);
  }
  await relay.waitForWal(WAL_END);
  const { sent } = (await relay.status()).downstreams[0] ?? assert.fail();
  assert.notEqual(sent, formatLsn(WAL_END), 'the downstream is stuck');
  for (let round = 0; round < 5; round += 1) {
    const before = primary.heard.length;
    primary.sendKeepalive(WAL_END, { replyRequested: true });
    const { body } = await primary.waitForHeard('r', before);
    assert.equal(decodeStatusUpdate(body).flush, WAL_END);
  }
  assert.equal(records.at(-1)?.end, WAL_END);
});

test('a silent downstream is asked after half of wal_sender_timeout, then closed', async (t) => {
  const { tree, relay } = await relayBehindScript(t, { wal_sender_timeout: '2s' });
  const session = await RawSession.start(tree, relay.port);
  assert.deepEqual(await session.answer(`START_REPLICATION ${formatLsn(START)}`), ['W']);

  // Who asks is answered at once, and is not asked back.
  session.report(START, { replyRequested: true });
  const answer = (await session.next()) ?? assert.fail();
  const { replyRequested, walEnd } = decodeKeepalive(answer.body);
  assert.deepEqual([replyRequested, walEnd], [false, START]);
  const heardMs = performance.now();

  // After half of the time one keepalive that asks; an answer makes the time begin anew.
  const asking = (await session.next()) ?? assert.fail();
  assert.equal(decodeKeepalive(asking.body).replyRequested, true);
  assert.ok(performance.now() - heardMs > 900);
  session.report(START);
  const answeredMs = performance.now();
  assert.equal(describeHeard((await session.next()) ?? assert.fail()), 'd k');

  // Without an answer it is the only one; then the end, without a word.
  assert.equal(await session.next(), undefined);
  assert.ok(performance.now() - answeredMs > 1_900);
  await relay.waitForLog(/terminating WAL sender session due to replication timeout/);

  // Outside a stream no such time runs.
  const idle = await RawSession.start(tree, relay.port);
  await waitFor('longer than the timeout', () => performance.now() - answeredMs > 5_000);
  assert.equal((await idle.answer('IDENTIFY_SYSTEM')).at(-1), 'Z I');
});

async function relayBehindScript(t: TestContext, settings: Record<string, string | number> = {}) {
  const tree = await TestDirectory.create(t);
  const primary = await ScriptedPrimary.listen(tree, {
    systemIdentifier: SYSTEM_IDENTIFIER,
    walEnd: START,
  });
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    args: ['--no-slot'],
    settings: { wal_retrieve_retry_interval: '100ms', ...settings },
  });
  await relay.start();
  await primary.waitForStream();
  return { tree, primary, relay };
}
