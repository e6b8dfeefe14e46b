/**
 * What a WAL sender and a WAL receiver say to each other inside CopyData (manual, "Streaming
 * Replication Protocol"), each message's decode and encode together, in the manual's order.
 *
 * Decoders take the body of the CopyData, type byte included; encoders return the whole CopyData.
 * Positions are "last byte + 1". Times are microseconds since 2000-01-01 00:00 UTC.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { Lsn } from '../wal/lsn.ts';
import { ByteReader } from './bytes.ts';

/** The type bytes inside CopyData. */
export const REPLICATION_MESSAGE = {
  WAL_DATA: 0x77,
  COMPRESSED_WAL_DATA: 0x7a,
  KEEPALIVE: 0x6b,
  STATUS_UPDATE: 0x72,
  HOT_STANDBY_FEEDBACK: 0x68,
} as const;

/** The type byte and length before a CopyData's body. */
const FRAME_BYTES = 5;
const COPY_DATA = 0x64;

/** What precedes the WAL in message `w` (XLogData in the manual up to 18). */
export interface WalDataHeader {
  /** Where in the WAL the first byte after the header belongs. */
  start: Lsn;
  /** How far the sender could send now; the end of the timeline if it is historic. */
  walEnd: Lsn;
  sentAt: bigint;
}

export const WAL_DATA_HEADER_BYTES = 25;

/** The header at the front of `bytes`; what follows it is the WAL. */
export function decodeWalDataHeader(bytes: Uint8Array): WalDataHeader {
  const body = openMessage(bytes, 'w', WAL_DATA_HEADER_BYTES);
  return { start: body.lsn(), walEnd: body.lsn(), sentAt: body.int64() };
}

/**
 * The CopyData's type byte and length and the header: 30 bytes, to be followed on the wire by
 * `walBytes` bytes of WAL from a buffer of their own, so that WAL is never copied to be sent.
 */
export function encodeWalDataFrame(header: WalDataHeader, walBytes: number): Buffer {
  return encodeWalFrame(REPLICATION_MESSAGE.WAL_DATA, header, walBytes);
}

/**
 * The header at the front of a message `z`, which is walcade's own: a WalData whose WAL is one
 * zstd frame. It is sent only to who has asked for it.
 */
export function decodeCompressedWalHeader(bytes: Uint8Array): WalDataHeader {
  const body = openMessage(bytes, 'z', WAL_DATA_HEADER_BYTES);
  return { start: body.lsn(), walEnd: body.lsn(), sentAt: body.int64() };
}

/** As encodeWalDataFrame(): to be followed by a zstd frame of `compressedBytes` bytes. */
export function encodeCompressedWalFrame(header: WalDataHeader, compressedBytes: number): Buffer {
  return encodeWalFrame(REPLICATION_MESSAGE.COMPRESSED_WAL_DATA, header, compressedBytes);
}

function encodeWalFrame(type: number, header: WalDataHeader, walBytes: number): Buffer {
  const frame = Buffer.allocUnsafe(FRAME_BYTES + WAL_DATA_HEADER_BYTES);
  frame[0] = COPY_DATA;
  frame.writeUInt32BE(4 + WAL_DATA_HEADER_BYTES + walBytes, 1);
  frame[5] = type;
  frame.writeBigUInt64BE(header.start, 6);
  frame.writeBigUInt64BE(header.walEnd, 14);
  frame.writeBigInt64BE(header.sentAt, 22);
  return frame;
}

/** "Where I am and when", sent downstream in silence; asks for a status update if in doubt. */
export interface Keepalive {
  walEnd: Lsn;
  sentAt: bigint;
  replyRequested: boolean;
}

const KEEPALIVE_BYTES = 18;

export function decodeKeepalive(bytes: Uint8Array): Keepalive {
  const body = openMessage(bytes, 'k', KEEPALIVE_BYTES);
  const keepalive = { walEnd: body.lsn(), sentAt: body.int64(), replyRequested: body.flag() };
  body.end();
  return keepalive;
}

export function encodeKeepalive({ walEnd, sentAt, replyRequested }: Keepalive): Buffer {
  const copyData = allocateCopyData('k', KEEPALIVE_BYTES);
  copyData.writeBigUInt64BE(walEnd, 6);
  copyData.writeBigInt64BE(sentAt, 14);
  copyData[22] = Number(replyRequested);
  return copyData;
}

/**
 * "How far I am", sent upstream. No order holds among the three positions, and they may lie beyond
 * what was sent on this connection; 0/0 means that the receiver does not say.
 */
export interface StatusUpdate {
  write: Lsn;
  flush: Lsn;
  apply: Lsn;
  sentAt: bigint;
  replyRequested: boolean;
}

const STATUS_UPDATE_BYTES = 34;

export function decodeStatusUpdate(bytes: Uint8Array): StatusUpdate {
  const body = openMessage(bytes, 'r', STATUS_UPDATE_BYTES);
  const status = {
    write: body.lsn(),
    flush: body.lsn(),
    apply: body.lsn(),
    sentAt: body.int64(),
    replyRequested: body.flag(),
  };
  body.end();
  return status;
}

export function encodeStatusUpdate(status: StatusUpdate): Buffer {
  const copyData = allocateCopyData('r', STATUS_UPDATE_BYTES);
  copyData.writeBigUInt64BE(status.write, 6);
  copyData.writeBigUInt64BE(status.flush, 14);
  copyData.writeBigUInt64BE(status.apply, 22);
  copyData.writeBigInt64BE(status.sentAt, 30);
  copyData[38] = Number(status.replyRequested);
  return copyData;
}

/**
 * "Keep the rows that these transactions see", sent upstream. Each is a whole 64-bit transaction
 * id (epoch << 32 | xid); 0n is none, and both 0n withdraw what was said before.
 */
export interface HotStandbyFeedback {
  sentAt: bigint;
  xmin: bigint;
  catalogXmin: bigint;
}

const HOT_STANDBY_FEEDBACK_BYTES = 25;

export function decodeHotStandbyFeedback(bytes: Uint8Array): HotStandbyFeedback {
  const body = openMessage(bytes, 'h', HOT_STANDBY_FEEDBACK_BYTES);
  const feedback = {
    sentAt: body.int64(),
    xmin: readTransactionId(body),
    catalogXmin: readTransactionId(body),
  };
  body.end();
  return feedback;
}

export function encodeHotStandbyFeedback(feedback: HotStandbyFeedback): Buffer {
  const copyData = allocateCopyData('h', HOT_STANDBY_FEEDBACK_BYTES);
  copyData.writeBigInt64BE(feedback.sentAt, 6);
  writeTransactionId(copyData, feedback.xmin, 14);
  writeTransactionId(copyData, feedback.catalogXmin, 22);
  return copyData;
}

/**
 * A standby fills in the epoch of an xmin that it does not have (walreceiver.c,
 * XLogWalRcvSendHSFeedback()), so xid 0 is none in every epoch.
 */
function readTransactionId(body: ByteReader): bigint {
  const xid = body.uint32();
  const epoch = body.uint32();
  return xid === 0 ? 0n : (BigInt(epoch) << 32n) | BigInt(xid);
}

function writeTransactionId(copyData: Buffer, id: bigint, offset: number): void {
  copyData.writeUInt32BE(Number(id & 0xffff_ffffn), offset);
  copyData.writeUInt32BE(Number(id >> 32n), offset + 4);
}

function openMessage(bytes: Uint8Array, type: string, bytesMin: number): ByteReader {
  const body = new ByteReader(bytes, type, bytesMin);
  const actual = String.fromCharCode(body.uint8());
  if (actual === type) return body;
  throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, 'invalid message format', {
    detail: `Message "${type}" is expected, this one is of type ${JSON.stringify(actual)}.`,
  });
}

function allocateCopyData(type: string, bodyBytes: number): Buffer {
  const copyData = Buffer.alloc(FRAME_BYTES + bodyBytes);
  copyData[0] = COPY_DATA;
  copyData.writeUInt32BE(4 + bodyBytes, 1);
  copyData.write(type, FRAME_BYTES, 'latin1');
  return copyData;
}
