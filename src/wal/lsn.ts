/**
 * LSNs and timelines: the values by which everything in walcade is ordered.
 *
 * An Lsn is a bigint because it is an unsigned 64-bit byte position; a TimelineId is an unsigned
 * 32-bit number. Positions only advance within a timeline.
 */
import { assert } from '../base/assert.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';

declare const brand: unique symbol;

/** A byte position in the WAL stream (PostgreSQL's XLogRecPtr). Only this module makes one. */
export type Lsn = bigint & { readonly [brand]: 'Lsn' };

/** A line of history, 1 to 2^32 - 1 (PostgreSQL's TimeLineID). */
export type TimelineId = number & { readonly [brand]: 'TimelineId' };

/** PostgreSQL's InvalidXLogRecPtr: no position. */
export const INVALID_LSN = 0n as Lsn;

const LSN_MAX = 0xffff_ffff_ffff_ffffn;

/** `value` as an LSN; it must fit 64 bits. */
export function lsn(value: bigint): Lsn {
  assert(value >= 0n && value <= LSN_MAX, 'an LSN fits 64 bits');
  return value as Lsn;
}

/** `value` as a timeline; throws 22023 unless it is a whole number from 1 to 2^32 - 1. */
export function timelineId(value: number): TimelineId {
  if (!Number.isInteger(value) || value < 1 || value > 0xffff_ffff) {
    throw new WalcadeError(SQLSTATE.INVALID_PARAMETER_VALUE, `invalid timeline ${value}`);
  }
  return value as TimelineId;
}

/** Reads `X/X` (also the zero-padded form of PostgreSQL 19); throws 22P02 for anything else. */
export function parseLsn(text: string): Lsn {
  const match = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i.exec(text);
  if (!match) {
    throw new WalcadeError(
      SQLSTATE.INVALID_TEXT_REPRESENTATION,
      `invalid input syntax for type pg_lsn: "${text}"`,
    );
  }
  return lsn((BigInt(`0x${match[1]}`) << 32n) | BigInt(`0x${match[2]}`));
}

/** `X/X` as PostgreSQL up to 18 prints it: upper-case hex, no padding. */
export function formatLsn(position: Lsn): string {
  const high = (position >> 32n).toString(16);
  const low = (position & 0xffff_ffffn).toString(16);
  return `${high}/${low}`.toUpperCase();
}

/** `position` moved forward by `bytes`. */
export function advance(position: Lsn, bytes: number): Lsn {
  assert(bytes >= 0, 'WAL positions only advance');
  return lsn(position + BigInt(bytes));
}

/** Bytes from `from` to `to`; `from` must not be after `to`. */
export function distance(from: Lsn, to: Lsn): number {
  assert(from <= to, 'a distance is measured forward');
  return Number(to - from);
}

export function minLsn(a: Lsn, b: Lsn): Lsn {
  return a < b ? a : b;
}

export function maxLsn(a: Lsn, b: Lsn): Lsn {
  return a > b ? a : b;
}

/** `position` rounded down to a multiple of `bytes`: a page's, block's or segment's start. */
export function alignDown(position: Lsn, bytes: number): Lsn {
  return lsn(position - (position % BigInt(bytes)));
}
