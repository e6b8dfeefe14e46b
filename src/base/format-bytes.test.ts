/** Amounts of data, as people read them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatBytes } from './format-bytes.ts';

test('an amount is shown in the largest unit that leaves it two digits', () => {
  const table: [number, string][] = [
    [0, '0 bytes'],
    [10_239, '10239 bytes'],
    [10_240, '10 kB'],
    [23_504_384, '22 MB'],
    [12 * 1024 ** 3, '12 GB'],
    [5000 * 1024 ** 4, '5000 TB'],
    [50_000 * 1024 ** 4, '50000 TB'],
  ];
  for (const [bytes, text] of table) assert.equal(formatBytes(bytes), text);
});
