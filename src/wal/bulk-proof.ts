/**
 * The fast path of the walker: proves what is ordinary in a piece of WAL, in one call.
 *
 * That is records, over pages and from one piece to the next, and such short page headers as the
 * pages before let one expect. It stops before all that is special or wrong in any way: the walker
 * knows what to do or say, and stays the whole definition of what is proven. The work is done by a
 * WebAssembly module, whose source is in wasm/. Its memory holds one piece of WAL, which is copied
 * there, and is the same for all walks: nothing of a walk is left there when a push has ended.
 */
import { assert } from '../base/assert.ts';
import { BULK_PROOF_WASM } from './bulk-proof-wasm.ts';
import { PAGE_FLAG, type WalFormat } from './formats.ts';
import { lsn, type Lsn } from './lsn.ts';
import type { RecordReader } from './record-reader.ts';
import { RECORD_HEADER_BYTES } from './record.ts';

/** Fewer bytes are not worth a call. */
export const BULK_BYTES_MIN = RECORD_HEADER_BYTES;

/** What the pages before let one expect of the next. */
export interface ExpectedWal {
  readonly format: WalFormat;
  readonly timeline: number;
  readonly segmentBytes: number;
}

/** Where a walk is in the piece of WAL that was loaded: between records, or in a record's body. */
export interface BulkStart {
  readonly from: number;
  readonly position: Lsn;
  /** The start of the last record. */
  readonly previous: Lsn;
}

export interface BulkResult {
  /** How much was taken. The record may be open then, its body complete or not. */
  readonly bytes: number;
  /** How much of it is proven, to the end of a record; 0 if no record ended. */
  readonly provenBytes: number;
  /** The start of the last record that is proven now. */
  readonly previous: Lsn;
}

/** What the module exports; of its constants, the values are places in its memory. */
interface Module {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly PIECE: { readonly value: number };
  readonly PIECE_BYTES: { readonly value: number };
  readonly RESOURCE_MANAGERS: { readonly value: number };
  readonly HEADER: { readonly value: number };
  readonly WALK: { readonly value: number };
  expect(
    magic: number,
    timeline: number,
    flagsAllowed: number,
    segmentBytes: number,
    recordBytesMax: number,
  ): void;
  prove(from: number, to: number, position: bigint): number;
}

/** Of the class Walk in wasm/bulk-proof.ts, where its fields are. */
const WALK = { PREVIOUS: 0, OPEN: 8, IS_OPEN: 16, LEFT: 20, CRC: 24, PROVEN: 28, BYTES: 32 };

/** As Node.js has it; its types do not say so. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
};

let shared: BulkProof | undefined;

/** The one for all walks, compiled when it is first asked for. */
export function sharedBulkProof(): BulkProof {
  shared ??= new BulkProof();
  return shared;
}

export class BulkProof {
  /** The longest piece of WAL that can be loaded. */
  readonly bytesMax: number;
  readonly #module: Module;
  readonly #piece: Uint8Array;
  readonly #resourceManagers: Uint8Array;
  readonly #header: DataView;
  readonly #walk: DataView;
  #bytes = 0;
  #format: WalFormat | undefined;

  constructor() {
    const compiled = new WebAssembly.Module(Buffer.from(BULK_PROOF_WASM, 'base64'));
    const module = new WebAssembly.Instance(compiled).exports as Module;
    const { buffer } = module.memory;
    this.bytesMax = module.PIECE_BYTES.value;
    this.#module = module;
    this.#piece = new Uint8Array(buffer, module.PIECE.value, this.bytesMax);
    this.#resourceManagers = new Uint8Array(buffer, module.RESOURCE_MANAGERS.value, 256);
    this.#header = new DataView(buffer, module.HEADER.value, RECORD_HEADER_BYTES);
    this.#walk = new DataView(buffer, module.WALK.value, WALK.BYTES);
  }

  /** Takes the piece of WAL that the next calls of `prove` are about. */
  load(piece: Uint8Array): void {
    assert(piece.length <= this.bytesMax, 'a piece of WAL fits the memory that is there for it');
    this.#piece.set(piece);
    this.#bytes = piece.length;
  }

  /**
   * Goes on from `start`, with `record` that is in its body or has not begun, as far as all is
   * ordinary. The caller has to check a record whose body is complete, but that is still open.
   */
  prove(start: BulkStart, record: RecordReader, expected: ExpectedWal): BulkResult {
    const { from, position, previous } = start;
    const walk = this.#walk;
    this.#expect(expected);
    walk.setBigUint64(WALK.PREVIOUS, previous, true);
    this.#lend(record);
    const to = this.#module.prove(from, this.#bytes, position);
    this.#giveBack(record);
    const proven = walk.getUint32(WALK.PROVEN, true);
    return {
      bytes: to - from,
      provenBytes: proven === 0 ? 0 : proven - from,
      previous: proven === 0 ? previous : lsn(walk.getBigUint64(WALK.PREVIOUS, true)),
    };
  }

  #expect({ format, timeline, segmentBytes }: ExpectedWal): void {
    if (format !== this.#format) {
      this.#format = format;
      this.#resourceManagers.set(format.isResourceManager.map(Number));
    }
    const { magic, validPageFlags, overwriteContinuationFlag, recordBytesMax } = format;
    const { FIRST_IS_CONTINUATION, LONG_HEADER } = PAGE_FLAG;
    const special = FIRST_IS_CONTINUATION | LONG_HEADER | overwriteContinuationFlag;
    this.#module.expect(magic, timeline, validPageFlags & ~special, segmentBytes, recordBytesMax);
  }

  #lend(record: RecordReader): void {
    const walk = this.#walk;
    walk.setUint32(WALK.IS_OPEN, record.start === undefined ? 0 : 1, true);
    if (record.start === undefined) return;
    const { crc, left } = record.lend(this.#header);
    walk.setBigUint64(WALK.OPEN, record.start, true);
    walk.setUint32(WALK.LEFT, left, true);
    walk.setInt32(WALK.CRC, crc, true);
  }

  #giveBack(record: RecordReader): void {
    const walk = this.#walk;
    if (walk.getUint32(WALK.IS_OPEN, true) === 0) return record.end();
    const start = lsn(walk.getBigUint64(WALK.OPEN, true));
    const left = walk.getUint32(WALK.LEFT, true);
    const crc = walk.getInt32(WALK.CRC, true);
    return record.takeBack(this.#header, { start, left, crc });
  }
}
