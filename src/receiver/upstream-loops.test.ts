/** A WAL receiver below a node, and what becomes of the nodes above that. */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { settle } from '../../test/harness/manual-clock.ts';
import { receive, waitForConnections } from '../../test/harness/receiver-under-test.ts';
import { encodeParameterStatus } from '../protocol/backend-messages.ts';
import { NODE_ID, UPSTREAM_PATH } from '../protocol/node-parameters.ts';

const OWN = 'a node of a test';

/** A receiver that streams from node `b`, which is below `above`. */
async function receiveFrom(t: TestContext, above: string) {
  const parts = await receive(
    t,
    {},
    { upstreamSettings: { [NODE_ID]: 'b', [UPSTREAM_PATH]: above } },
  );
  const paths: string[][] = [];
  const { receiver } = parts;
  receiver.pathChanged.listen(() => paths.push(receiver.status.upstreamPath));
  return { ...parts, paths };
}

test('the nodes above are known when the stream begins, and whenever they change', async (t) => {
  const { primary, receiver, paths } = await receiveFrom(t, 'c');
  assert.deepEqual(receiver.status.upstreamPath, ['b', 'c']);
  for (const path of ['c,d', 'c,d', '']) {
    await primary.say(encodeParameterStatus(UPSTREAM_PATH, path));
  }
  await primary.say(encodeParameterStatus('TimeZone', 'UTC'));
  assert.deepEqual(paths, [['b', 'c', 'd'], ['b']]);
  assert.equal(receiver.status.state, 'streaming');
});

test('a loop that is closed far above ends the stream, and is told on', async (t) => {
  const { primary, receiver, paths, log } = await receiveFrom(t, 'c');
  primary.settings[UPSTREAM_PATH] = `c,${OWN},b`;
  await primary.say(encodeParameterStatus(UPSTREAM_PATH, `c,${OWN},b`));
  await settle();
  // Not what is below itself: the path would grow each time that it goes round.
  assert.deepEqual(paths, [['b', 'c', OWN]]);
  await waitForConnections(primary, 3);
  const errors = log.filter(({ level }) => level === 'error').map(({ message }) => message);
  assert.deepEqual(errors, ['upstream primary:5432 receives its WAL from this node']);
  assert.equal(receiver.status.state, 'connecting');
  assert.deepEqual(paths, [['b', 'c', OWN]]);

  // Once it is opened the stream goes on by itself.
  primary.settings[UPSTREAM_PATH] = 'c';
  await waitForConnections(primary, primary.connections + 1);
  assert.equal(receiver.status.state, 'streaming');
});

test('a receiver that is to follow another upstream is below nobody until it does', async (t) => {
  const { receiver, paths } = await receiveFrom(t, 'c');
  receiver.restart('the test says so');
  assert.deepEqual(paths, [[]]);
});
