/** Where a stream begins so that it overlaps what is stored. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseLsn } from '../wal/lsn.ts';
import { overlapStart } from './stored-overlap.ts';

const CASES: [string, { served: string; received: string; start: string }][] = [
  [
    'the page of the last byte that is served',
    { served: '0/1A4010', received: '0/1A4018', start: '0/1A4000' },
  ],
  [
    'the page before a page boundary',
    { served: '0/1A4000', received: '0/1A4000', start: '0/1A2000' },
  ],
  [
    'nothing of an earlier segment',
    { served: '0/200000', received: '0/200000', start: '0/200000' },
  ],
  [
    'nothing behind a record that fills the segment so far',
    { served: '0/1FF000', received: '0/2A0000', start: '0/2A0000' },
  ],
];

for (const [compared, { served, received, start }] of CASES) {
  test(`a stream begins with ${compared}`, () => {
    const positions = { served: parseLsn(served), received: parseLsn(received) };
    assert.equal(overlapStart({ ...positions, segmentBytes: 1024 * 1024 }), parseLsn(start));
  });
}

test('a long record that is unfinished is not asked for twice', () => {
  const positions = { served: parseLsn('0/1A4010'), received: parseLsn('0/300000') };
  assert.equal(overlapStart({ ...positions, segmentBytes: 16 * 1024 * 1024 }), positions.received);
});
