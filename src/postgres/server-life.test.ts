/** What state a server is in, by its postmaster.pid and its log. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lifeState, serverRole } from './server-life.ts';

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

for (const [file, isPromoting, role, sentence] of [
  ['standby', false, 'standby', 'a server with a signal file is a standby'],
  ['standby', true, 'promoting', 'a standby that has taken the request is being promoted'],
  ['primary', true, 'primary', 'a server whose signal file is gone is a primary'],
  ['primary', false, 'primary', 'a server that was a primary when it started is one'],
] as const) {
  test(sentence, () => assert.equal(serverRole(file, { isPromoting }), role));
}
