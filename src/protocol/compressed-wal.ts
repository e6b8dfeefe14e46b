/**
 * Reads compressed WalData, message `z`, which a node sends to a node that has asked for it: the
 * header of a WalData, then the WAL as one zstd frame. It lives as long as a stream.
 *
 * A message is put together before it is decompressed, in one buffer that is used again; lengths
 * are checked before that. The WAL is proven by who takes it, as any.
 */
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import type { ReplicationClient } from './client.ts';
import type { Message } from './message-reader.ts';
import { LINK_COMPRESSION } from './node-parameters.ts';
import {
  WAL_DATA_HEADER_BYTES,
  type WalDataHeader,
  decodeCompressedWalHeader,
} from './replication-messages.ts';
import { type Zstd, loadZstd } from './zstd.ts';

/** The most WAL that a message holds before it is compressed: what a WalData holds. */
export const COMPRESSED_WAL_BYTES_MAX = 128 * 1024;

const BODY_BYTES_MAX = WAL_DATA_HEADER_BYTES + COMPRESSED_WAL_BYTES_MAX;

/** A whole message: its header, and the WAL as it was before. */
export interface CompressedWal extends WalDataHeader {
  wal: Buffer;
}

export class CompressedWalReader {
  readonly #zstd: Zstd;
  readonly #body = Buffer.allocUnsafeSlow(BODY_BYTES_MAX);
  /** Where the next fragment belongs; 0 between messages. */
  #filled = 0;

  constructor(zstd: Zstd) {
    this.#zstd = zstd;
  }

  /** A reader, if that server has agreed to compress. Throws 0A000 if there is no library. */
  static async open({ parameters }: ReplicationClient): Promise<CompressedWalReader | undefined> {
    if (parameters.get(LINK_COMPRESSION) !== 'zstd') return undefined;
    return new CompressedWalReader(await loadZstd());
  }

  /** Whether the rest of a message is still to come. */
  get isInside(): boolean {
    return this.#filled > 0;
  }

  /** Takes a message or the next fragment; gives it once it is whole. Throws 08P01. */
  push({ body, offset, bodyBytes }: Message): CompressedWal | undefined {
    if (bodyBytes > BODY_BYTES_MAX) {
      throw new WalcadeError(SQLSTATE.PROTOCOL_VIOLATION, 'invalid compressed WAL data', {
        detail: `The message has ${bodyBytes} bytes, at most ${BODY_BYTES_MAX} are allowed.`,
      });
    }
    if (body.length === bodyBytes) return this.#open(body);
    body.copy(this.#body, offset);
    this.#filled = offset + body.length;
    if (this.#filled < bodyBytes) return undefined;
    this.#filled = 0;
    return this.#open(this.#body.subarray(0, bodyBytes));
  }

  #open(body: Buffer): CompressedWal {
    const header = decodeCompressedWalHeader(body);
    const frame = body.subarray(WAL_DATA_HEADER_BYTES);
    return { ...header, wal: this.#zstd.decompress(frame, COMPRESSED_WAL_BYTES_MAX) };
  }
}
