/** For which limits a server that has paused replay is worth starting again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { higherLimits } from './standby-limits.ts';

const BEFORE = { values: { max_connections: 50, max_wal_senders: 10 }, raised: {} };

test('limits that the WAL has raised since the start are higher, with their values', () => {
  const now = {
    values: { max_connections: 60, max_wal_senders: 10 },
    raised: { max_connections: '60' },
  };
  assert.deepEqual(higherLimits(now, BEFORE), [{ name: 'max_connections', value: 60 }]);
});

test('limits that were raised in the files since the start are higher too', () => {
  const now = { values: { max_connections: 100, max_wal_senders: 10 }, raised: {} };
  assert.deepEqual(higherLimits(now, BEFORE), [{ name: 'max_connections', value: 100 }]);
});

test('a start that would have the same limits, or lower ones, would only pause again', () => {
  assert.deepEqual(higherLimits(BEFORE, BEFORE), []);
  const lower = { values: { max_connections: 50 }, raised: { max_connections: '50' } };
  assert.deepEqual(higherLimits(lower, BEFORE), []);
});

test('a limit that could not be told before a start is no reason for another', () => {
  assert.deepEqual(higherLimits(BEFORE, { values: {}, raised: {} }), []);
});
