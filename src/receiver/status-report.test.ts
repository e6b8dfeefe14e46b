/** When the upstream is told what: the decisions of a WAL receiver as tables. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { INVALID_LSN, lsn } from '../wal/lsn.ts';
import { isFeedbackDue, isFeedbackLookDue, isReportDue } from './status-report.ts';

const AT = { write: lsn(100n), flush: lsn(90n), apply: INVALID_LSN };
const SOON = { nowMs: 10_500, lastReportMs: 10_000, intervalMs: 1000 };
const LATE = { nowMs: 11_000, lastReportMs: 10_000, intervalMs: 1000 };

test('a status update is due at first, when a position moved, and at each interval', () => {
  assert.equal(isReportDue(undefined, AT, SOON), true);
  assert.equal(isReportDue(AT, { ...AT }, SOON), false);
  assert.equal(isReportDue(AT, { ...AT, write: lsn(101n) }, SOON), true);
  assert.equal(isReportDue(AT, { ...AT, flush: lsn(100n) }, SOON), true);
  assert.equal(isReportDue(AT, { ...AT, apply: lsn(1n) }, SOON), true);
  assert.equal(isReportDue(AT, { ...AT, write: lsn(50n) }, SOON), true);
  assert.equal(isReportDue(AT, AT, LATE), true);
  assert.equal(isReportDue(AT, AT, { ...LATE, intervalMs: 0 }), false);
});

test('feedback is due at first, at each interval, and at once when nothing is asked now', () => {
  const nothing = { xmin: 0n, catalogXmin: 0n };
  const xmin = { xmin: 700n, catalogXmin: 0n };
  const catalog = { xmin: 0n, catalogXmin: 5n };
  assert.equal(isFeedbackDue(undefined, nothing, SOON), true);
  assert.equal(isFeedbackDue(undefined, xmin, SOON), true);
  assert.equal(isFeedbackDue(nothing, nothing, LATE), false);
  assert.equal(isFeedbackDue(xmin, nothing, SOON), true);
  assert.equal(isFeedbackDue(catalog, nothing, SOON), true);
  assert.equal(isFeedbackDue(xmin, catalog, SOON), false);
  assert.equal(isFeedbackDue(xmin, { ...xmin, xmin: 701n }, SOON), false);
  assert.equal(isFeedbackDue(xmin, { ...xmin, xmin: 701n }, LATE), true);
  assert.equal(isFeedbackDue(xmin, xmin, LATE), true);
});

test('feedback goes out once a second at most, whatever the interval', () => {
  const xmin = { xmin: 700n, catalogXmin: 0n };
  assert.equal(isFeedbackDue(xmin, xmin, { ...SOON, intervalMs: 0 }), false);
  assert.equal(isFeedbackDue(xmin, xmin, { ...LATE, intervalMs: 0 }), true);
  assert.equal(isFeedbackLookDue({ ...SOON, intervalMs: 0 }), false);
  assert.equal(isFeedbackLookDue({ ...LATE, intervalMs: 0 }), true);
  assert.equal(isFeedbackLookDue({ ...LATE, intervalMs: 10_000 }), false);
  const never = { ...LATE, lastReportMs: Number.NEGATIVE_INFINITY };
  assert.equal(isFeedbackLookDue(never), true);
});
