/** How far WAL is served, as a table. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { lsn } from '../wal/lsn.ts';
import { servedEnd } from './served-end.ts';

test('WAL is served to the last record that is written, or to a page boundary inside one', () => {
  const cases: [written: bigint, proven: bigint, provenBefore: bigint, served: bigint][] = [
    [1000n, 900n, 800n, 900n],
    [1000n, 1000n, 0n, 1000n],
    [1000n, 1100n, 1000n, 1000n],
    [1000n, 1100n, 900n, 900n],
    [8200n, 9000n, 9000n, 8192n],
    [8200n, 9000n, 8000n, 8192n],
    [8200n, 9000n, 8196n, 8196n],
    [16_384n, 90_000n, 0n, 16_384n],
  ];
  for (const [written, proven, provenBefore, served] of cases) {
    const positions = { proven: lsn(proven), provenBefore: lsn(provenBefore) };
    assert.equal(servedEnd(lsn(written), positions), served, `${written} ${proven}`);
  }
});
