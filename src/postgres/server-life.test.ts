/** What state a server is in, by its postmaster.pid and its log. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lifeState } from './server-life.ts';

const QUIET = { replays: false, isReinitializing: false };
const REPLAYS = { replays: true, isReinitializing: false };
const CRASHED = { replays: false, isReinitializing: true };
const REPLAYS_AGAIN = { replays: true, isReinitializing: true };

for (const [file, log, state, sentence] of [
  ['', QUIET, 'starting', 'a server that has written nothing yet is starting'],
  ['starting', QUIET, 'starting', 'a server without redo is starting'],
  ['starting', REPLAYS, 'replaying', 'a server whose redo began is replaying'],
  ['ready', REPLAYS, 'ready', 'a server that answers is ready while it replays'],
  ['ready', QUIET, 'ready', 'a server that had nothing to replay is ready'],
  ['ready', CRASHED, 'starting', 'a server that starts anew after a crash is not ready'],
  ['ready', REPLAYS_AGAIN, 'replaying', 'a server that replays after a crash is not ready'],
  ['stopping', REPLAYS, 'stopping', 'a server that somebody else stops is stopping'],
] as const) {
  test(sentence, () => assert.equal(lifeState(file, log), state));
}
