/** How far back WAL is kept, and for whom: a table, and any values. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { type Lsn, formatLsn, lsn, parseLsn } from '../wal/lsn.ts';
import { type RetentionClaims, oldestKept } from './retention.ts';

const MB16 = 16 * 1024 * 1024;

const claims: RetentionClaims = {
  flushed: parseLsn('1/0'),
  walkFrom: parseLsn('0/FFFFFF00'),
  checkpointRedo: parseLsn('0/FE000100'),
  keepBytes: 0n,
  reserved: [],
};

for (const { what, changes, kept } of [
  {
    what: 'the last checkpoint, from which a new slot would begin',
    changes: {},
    kept: '0/FE000000',
  },
  { what: 'where a start walks from', changes: { checkpointRedo: undefined }, kept: '0/FF000000' },
  { what: 'wal_keep_size', changes: { keepBytes: 0x0600_0001n }, kept: '0/F9000000' },
  { what: 'more wal_keep_size than there is WAL', changes: { keepBytes: 1n << 60n }, kept: '0/0' },
  {
    what: 'the oldest of slots and backups',
    changes: { reserved: [parseLsn('0/F0000001'), parseLsn('0/E1FFFFFF'), parseLsn('0/FF000000')] },
    kept: '0/E1000000',
  },
  { what: 'what is not durable yet', changes: { flushed: parseLsn('0/1000') }, kept: '0/0' },
]) {
  test(`WAL is kept from ${what} on`, () => {
    assert.equal(formatLsn(oldestKept({ ...claims, ...changes }, MB16)), kept);
  });
}

const position = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }).map(lsn);

test('nothing with a claim on it is removed, and no segment is kept without a claim', () => {
  fc.assert(
    fc.property(
      fc.record({
        flushed: position,
        walkFrom: position,
        checkpointRedo: fc.option(position, { nil: undefined }),
        keepBytes: fc.bigInt({ min: 0n, max: 1n << 40n }),
        reserved: fc.array(position, { maxLength: 5 }),
      }),
      fc.constantFrom(1, 16, 1024).map((megabytes) => megabytes * 1024 * 1024),
      (drawn, segmentBytes) => {
        const kept = oldestKept(drawn, segmentBytes);
        const { flushed, walkFrom, checkpointRedo, keepBytes, reserved } = drawn;
        const keepFrom = flushed > keepBytes ? lsn(flushed - keepBytes) : lsn(0n);
        const claimed = [walkFrom, keepFrom, ...reserved, checkpointRedo].filter(isLsn);
        assert.equal(kept % BigInt(segmentBytes), 0n);
        for (const each of claimed) assert.ok(kept <= each);
        assert.ok(claimed.some((each) => each - kept < BigInt(segmentBytes)));
      },
    ),
  );
});

function isLsn(value: Lsn | undefined): value is Lsn {
  return value !== undefined;
}
