/**
 * What differs in the WAL of one PostgreSQL major version and the next, as data.
 *
 * The magic of a page tells the version. It changes with nearly every major version, so WAL of a
 * version that is not in the table is refused instead of guessed at. 19 is as of its first
 * release candidate and is to be checked again when it is released.
 */

/** Page flags (xlog_internal.h): the same in every version but for the last. */
export const PAGE_FLAG = {
  /** XLP_FIRST_IS_CONTRECORD: the page begins with the rest of a record. */
  FIRST_IS_CONTINUATION: 0x0001,
  /** XLP_LONG_HEADER: the header is the long one of a segment's first page. */
  LONG_HEADER: 0x0002,
} as const;

export interface WalFormat {
  /** PostgreSQL's major version. */
  readonly major: number;
  /** XLOG_PAGE_MAGIC. */
  readonly magic: number;
  /** XLP_ALL_FLAGS: any other bit in a page's flags is wrong. */
  readonly validPageFlags: number;
  /** XLP_FIRST_IS_OVERWRITE_CONTRECORD: the page replaces the rest of a record that was lost. */
  readonly overwriteContinuationFlag: number;
  /** The longest record, header included. */
  readonly recordBytesMax: number;
  /** Resource managers that a record can have, by their id. */
  readonly isResourceManager: readonly boolean[];
}

/** Before 16 a record was limited only by the memory its reader could ask for: MaxAllocSize. */
const MAX_ALLOC_BYTES = 0x3fff_ffff;

/** XLogRecordMaxSize, from 16 on: 1020 MB. */
const RECORD_BYTES_MAX = 1020 * 1024 * 1024;

/** RM_MAX_ID of 13 to 18: logical messages. */
const LOGICAL_MESSAGE = 21;

/** A bound for 19, whose resource managers are not final. */
const RESERVED = 31;

/** RM_MIN_CUSTOM_ID: from here on, since 15, ids belong to extensions. */
const CUSTOM = 128;

const FORMATS: readonly WalFormat[] = [
  { major: 13, magic: 0xd106, ...before16(), isResourceManager: resourceManagers(LOGICAL_MESSAGE) },
  { major: 14, magic: 0xd10d, ...before16(), isResourceManager: resourceManagers(LOGICAL_MESSAGE) },
  { major: 15, magic: 0xd110, ...before16(), isResourceManager: withCustom(LOGICAL_MESSAGE) },
  { major: 16, magic: 0xd113, ...from16(), isResourceManager: withCustom(LOGICAL_MESSAGE) },
  { major: 17, magic: 0xd116, ...from16(), isResourceManager: withCustom(LOGICAL_MESSAGE) },
  { major: 18, magic: 0xd118, ...from16(), isResourceManager: withCustom(LOGICAL_MESSAGE) },
  {
    major: 19,
    magic: 0xd122,
    // XLP_BKP_REMOVABLE is gone and its bit has a new meaning.
    validPageFlags: 0x0007,
    overwriteContinuationFlag: 0x0004,
    recordBytesMax: RECORD_BYTES_MAX,
    isResourceManager: withCustom(RESERVED),
  },
];

/** What no version refuses in a record: for WAL whose first page header is yet to come. */
export const ANY_RECORD: Pick<WalFormat, 'recordBytesMax' | 'isResourceManager'> = {
  recordBytesMax: MAX_ALLOC_BYTES,
  isResourceManager: withCustom(RESERVED),
};

/** The format whose pages carry `magic`, if it is in the table. */
export function walFormatByMagic(magic: number): WalFormat | undefined {
  return FORMATS.find((format) => format.magic === magic);
}

/** The format of PostgreSQL's version `major`, if it is in the table. */
export function walFormatByMajor(major: number): WalFormat | undefined {
  return FORMATS.find((format) => format.major === major);
}

function before16() {
  return {
    validPageFlags: 0x000f,
    overwriteContinuationFlag: 0x0008,
    recordBytesMax: MAX_ALLOC_BYTES,
  };
}

function from16() {
  return { ...before16(), recordBytesMax: RECORD_BYTES_MAX };
}

function resourceManagers(last: number): boolean[] {
  return Array.from({ length: 256 }, (_, id) => id <= last);
}

function withCustom(last: number): boolean[] {
  return resourceManagers(last).map((isBuiltIn, id) => isBuiltIn || id >= CUSTOM);
}
