/**
 * WAL page headers: every page of 8 kB begins with one, a segment's first page with a longer one.
 *
 * Layout as in xlog_internal.h, XLogPageHeaderData and XLogLongPageHeaderData, little-endian.
 */
import { assert } from '../base/assert.ts';
import { WalCorruption } from './corruption.ts';
import { PAGE_FLAG, walFormatByMagic, type WalFormat } from './formats.ts';
import { formatLsn, lsn, timelineId, type Lsn } from './lsn.ts';
import { segmentName } from './segment.ts';

/** XLOG_BLCKSZ. Servers built with another page size are refused by their first page. */
export const PAGE_BYTES = 8192;

/** SizeOfXLogShortPHD. */
export const PAGE_HEADER_BYTES = 24;

/** SizeOfXLogLongPHD: the header of a segment's first page. */
export const LONG_PAGE_HEADER_BYTES = 40;

export interface PageHeader {
  readonly magic: number;
  /** PAGE_FLAG bits. */
  readonly flags: number;
  /** Not yet checked, so it may be 0, which is no timeline. */
  readonly timeline: number;
  /** The position of the page itself. */
  readonly address: Lsn;
  /** How much of a record that began on an earlier page is still to come, this page included. */
  readonly remainingBytes: number;
  /** The rest of a long header. */
  readonly segment?: SegmentHeader;
}

export interface SegmentHeader {
  readonly systemIdentifier: bigint;
  readonly segmentBytes: number;
  readonly pageBytes: number;
}

/** What a page must agree with; what is undefined is not known yet and not compared. */
export interface ExpectedPage {
  readonly address: Lsn;
  readonly segmentBytes: number;
  readonly format: WalFormat | undefined;
  readonly systemIdentifier: bigint | undefined;
  /** That of the page before. */
  readonly timeline: number | undefined;
}

/** How long the header at the start of `page` is; its first four bytes are enough. */
export function pageHeaderBytes(page: DataView): number {
  const isLong = (page.getUint16(2, true) & PAGE_FLAG.LONG_HEADER) !== 0;
  return isLong ? LONG_PAGE_HEADER_BYTES : PAGE_HEADER_BYTES;
}

/** Reads the header at the start of `page`, which must hold pageHeaderBytes() bytes. */
export function decodePageHeader(page: DataView): PageHeader {
  assert(page.byteLength >= pageHeaderBytes(page), 'a page header is decoded as a whole');
  const header = {
    magic: page.getUint16(0, true),
    flags: page.getUint16(2, true),
    timeline: page.getUint32(4, true),
    address: lsn(page.getBigUint64(8, true)),
    remainingBytes: page.getUint32(16, true),
  };
  if ((header.flags & PAGE_FLAG.LONG_HEADER) === 0) return header;
  const segment = {
    systemIdentifier: page.getBigUint64(24, true),
    segmentBytes: page.getUint32(32, true),
    pageBytes: page.getUint32(36, true),
  };
  return { ...header, segment };
}

/**
 * The format of a page whose header is as expected; else throws WalCorruption in the words, and
 * after the checks, of xlogreader.c, XLogReaderValidatePageHeader(). Whether a continued record
 * goes on as it should is for the walker to say.
 */
export function checkPageHeader(header: PageHeader, expected: ExpectedPage): WalFormat {
  const { address, segmentBytes } = expected;
  const format = walFormatByMagic(header.magic);
  if (!format || (expected.format && format !== expected.format)) {
    throw pageCorruption(`invalid magic number ${hex4(header.magic)}`, expected);
  }
  const { segment, flags } = header;
  const isFirst = address % BigInt(segmentBytes) === 0n;
  if ((flags & ~format.validPageFlags) !== 0 || (isFirst && !segment)) {
    throw pageCorruption(`invalid info bits ${hex4(flags)}`, expected);
  }
  if (segment) checkSegmentHeader(segment, expected);
  if (header.address !== address) {
    throw pageCorruption(`unexpected pageaddr ${formatLsn(header.address)}`, expected);
  }
  const before = expected.timeline ?? 1;
  if (header.timeline < before) {
    const order = `${header.timeline} (after ${before})`;
    throw pageCorruption(`out-of-sequence timeline ID ${order}`, expected);
  }
  return format;
}

function checkSegmentHeader(segment: SegmentHeader, expected: ExpectedPage): void {
  const { systemIdentifier } = expected;
  const different = 'WAL file is from different database system';
  if (systemIdentifier !== undefined && segment.systemIdentifier !== systemIdentifier) {
    throw new WalCorruption(
      expected.address,
      `${different}: WAL file database system identifier is ${segment.systemIdentifier}, ` +
        `pg_control database system identifier is ${systemIdentifier}`,
    );
  }
  if (segment.segmentBytes !== expected.segmentBytes) {
    const message = `${different}: incorrect segment size in page header`;
    throw new WalCorruption(expected.address, message);
  }
  if (segment.pageBytes !== PAGE_BYTES) {
    const message = `${different}: incorrect XLOG_BLCKSZ in page header`;
    throw new WalCorruption(expected.address, message);
  }
}

function pageCorruption(what: string, expected: ExpectedPage): WalCorruption {
  const { address, segmentBytes } = expected;
  const name = segmentName(timelineId(expected.timeline ?? 1), address, segmentBytes);
  const offset = address % BigInt(segmentBytes);
  const where = `in WAL segment ${name}, LSN ${formatLsn(address)}, offset ${offset}`;
  return new WalCorruption(address, `${what} ${where}`);
}

function hex4(value: number): string {
  return value.toString(16).toUpperCase().padStart(4, '0');
}
