/** What is suggested when a server does not let us in. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { ConnectionLost } from './connection.ts';
import { connectionHint } from './connection-hints.ts';

const hintFor = (sqlstate: string, message: string): string | undefined =>
  connectionHint(new WalcadeError(sqlstate, message), 'replicator');

test('each refusal of a server comes with what to do about it', () => {
  const noEntry = 'no pg_hba.conf entry for replication connection from host "10.0.0.1"';
  assert.match(hintFor(SQLSTATE.INVALID_AUTHORIZATION, noEntry) ?? '', /line in pg_hba\.conf/);
  const noRole = 'role "replicator" does not exist';
  assert.match(hintFor(SQLSTATE.INVALID_AUTHORIZATION, noRole) ?? '', /Create role "replicator"/);
  assert.match(hintFor(SQLSTATE.INVALID_PASSWORD, 'password …') ?? '', /~\/\.pgpass/);
  const denied = 'permission denied to start WAL sender';
  assert.match(hintFor(SQLSTATE.INSUFFICIENT_PRIVILEGE, denied) ?? '', /ALTER ROLE replicator/);
  const full = 'number of requested standby connections exceeds "max_wal_senders" (currently 0)';
  assert.match(hintFor(SQLSTATE.TOO_MANY_CONNECTIONS, full) ?? '', /wal_level = minimal/);
  assert.match(hintFor(SQLSTATE.CANNOT_CONNECT_NOW, 'starting up') ?? '', /Try again/);
  assert.match(hintFor(SQLSTATE.PROTOCOL_VIOLATION, 'invalid message length') ?? '', /PostgreSQL/);
  const lost = new ConnectionLost(SQLSTATE.CONNECTION_FAILURE, 'server closed the connection');
  assert.match(connectionHint(lost, 'replicator') ?? '', /PostgreSQL, or a walcade node/);
});

test('a hint that the server gave stays, and none is made up for what is not foreseen', () => {
  const hinted = new WalcadeError(SQLSTATE.INVALID_PASSWORD, 'no', { hint: 'Ask the owner.' });
  assert.equal(connectionHint(hinted, 'replicator'), 'Ask the owner.');
  assert.equal(hintFor(SQLSTATE.OUT_OF_MEMORY, 'out of memory'), undefined);
});
