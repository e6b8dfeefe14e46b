/** What `walcade status` says of the attached server. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeServer } from './status-command.ts';

const SERVER = {
  version: '18.4',
  dataDirectory: '/n/data',
  state: 'ready',
  role: 'standby',
  pid: 4711,
  reason: null,
  restarts: 0,
  replay: '0/3000060',
  lagBytes: 0,
};

for (const [restarts, text] of [
  [0, 'PostgreSQL 18.4 (PID 4711), standby, ready'],
  [1, 'PostgreSQL 18.4 (PID 4711), standby, ready, started again once'],
  [2, 'PostgreSQL 18.4 (PID 4711), standby, ready, started again 2 times'],
] as const) {
  test(`a server with ${restarts} restarts is "${text}"`, () => {
    assert.deepEqual(describeServer({ ...SERVER, restarts }), [
      ['server', text],
      ['replayed', '0/3000060'],
    ]);
  });
}
