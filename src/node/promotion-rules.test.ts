/** When a node may be promoted, and what is said when it may not. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { AttachedState } from '../postgres/attached-server.ts';
import type { ServerRole } from '../postgres/server-role.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { parseLsn } from '../wal/lsn.ts';
import {
  behindUpstream,
  isAboutToTell,
  missingBytes,
  promotionProgress,
  promotionRefusal,
  receivedOf,
} from './promotion-rules.ts';

const server = (role: ServerRole, state: AttachedState, reason?: string) => ({
  role,
  state,
  reason,
});

test('a standby that is ready may be promoted', () => {
  assert.equal(promotionRefusal(server('standby', 'ready')), undefined);
});

for (const [status, sqlstate, message] of [
  [undefined, '0A000', 'cannot promote node; it is a relay, which has no PostgreSQL server'],
  [server('primary', 'ready'), '55000', 'cannot promote node; its server is not in standby mode'],
  [
    server('promoting', 'ready'),
    '55000',
    'cannot promote node; its server is being promoted already',
  ],
  [
    server('standby', 'replaying', 'It waits.'),
    '55000',
    'cannot promote node; its server is not ready but replaying',
  ],
] as const) {
  test(`it is refused so: ${message}`, () => {
    const refusal = promotionRefusal(status);
    assert.equal(refusal?.sqlstate, sqlstate);
    assert.equal(refusal?.message, message);
    assert.equal(
      refusal?.detail,
      status?.role === 'primary' ? 'It is a primary already.' : status?.reason,
    );
  });
}

test('a node is behind by what its upstream has told of and it has not', () => {
  const lag = { received: parseLsn('0/3000010'), upstreamWalEnd: parseLsn('0/3000100') };
  assert.equal(missingBytes(lag), 0xf0);
  const { message, detail } = behindUpstream(lag);
  assert.equal(message, 'cannot promote node; it is 240 bytes behind its upstream');
  assert.equal(detail, 'It has received WAL up to 0/3000010, its upstream is at 0/3000100.');
  assert.equal(missingBytes({ ...lag, upstreamWalEnd: lag.received }), 0);
  assert.equal(missingBytes({ ...lag, upstreamWalEnd: undefined }), 0);
});

for (const [role, state, takesWrites, wasTaken, progress] of [
  ['standby', 'ready', false, false, 'waiting'],
  ['promoting', 'ready', false, true, 'waiting'],
  ['primary', 'ready', false, true, 'waiting'],
  ['primary', 'ready', true, true, 'done'],
  ['standby', 'down', false, false, 'broken-off'],
  ['standby', 'ready', false, true, 'broken-off'],
  ['standby', 'starting', false, true, 'broken-off'],
  // Its signal file was gone when it crashed.
  ['primary', 'down', false, true, 'waiting'],
] as const) {
  const taken = wasTaken ? 'that has taken the request' : 'that was asked';
  const writes = takesWrites ? ' and takes writes' : '';
  test(`a server ${taken}, is ${state} as ${role}${writes}: ${progress}`, () => {
    assert.equal(promotionProgress({ role, state }, { takesWrites, wasTaken }), progress);
  });
}

// A node whose disk was full counted what it had in memory only, and was promoted without it.
test('what a full disk has refused does not count as received', () => {
  const positions = { received: parseLsn('0/3000000'), written: parseLsn('0/2000000') };
  const failure = new WalcadeError(SQLSTATE.DISK_FULL, 'could not write WAL');
  assert.equal(receivedOf({ ...positions, failure: undefined }), positions.received);
  assert.equal(receivedOf({ ...positions, failure }), positions.written);
});

test('an upstream is waited for that has not said how far it is, but may', () => {
  const upstreamWalEnd = parseLsn('0/3000000');
  for (const [status, isAbout] of [
    [{ state: 'streaming' }, true],
    [{ state: 'connecting' }, true],
    [{ state: 'streaming', upstreamWalEnd }, false],
    [{ state: 'connecting', upstreamWalEnd }, false],
    [{ state: 'connecting', reason: 'Connection refused' }, false],
    [{ state: 'waiting', reason: 'the archive has no more' }, false],
    [{ state: 'stopped' }, false],
  ] as const) {
    assert.equal(isAboutToTell(status), isAbout, JSON.stringify(status.state));
  }
});
