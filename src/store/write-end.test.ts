/** One write of WAL ends with what was received, its segment, or a length. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lsn } from '../wal/lsn.ts';
import { WRITE_BYTES_MAX, writeEnd } from './write-end.ts';

const SEGMENT = 16 * 1024 * 1024;
const start = lsn(5n * BigInt(SEGMENT));
const at = (offset: number) => lsn(start + BigInt(offset));

test('a write takes all that was received', () => {
  assert.equal(writeEnd(at(100), at(300), SEGMENT), at(300));
});

test('a write stays in its segment', () => {
  assert.equal(writeEnd(at(SEGMENT - 8), at(SEGMENT + 8), SEGMENT), at(SEGMENT));
  assert.equal(writeEnd(at(SEGMENT), at(SEGMENT + 8), SEGMENT), at(SEGMENT + 8));
});

test('a write is not longer than the page cache likes, and leaves whole pages behind it', () => {
  assert.equal(writeEnd(at(100), at(SEGMENT), SEGMENT), at(WRITE_BYTES_MAX));
  assert.equal(writeEnd(at(8192), at(SEGMENT), SEGMENT), at(8192 + WRITE_BYTES_MAX));
});
