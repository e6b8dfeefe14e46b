/**
 * zstd, from the first library that is there: Node.js's own (22.15 and later), a native one, or one
 * in WebAssembly, which runs everywhere. None is loaded before it is asked for, and one that cannot
 * be loaded is no error. All write and read the same frames; what is loaded stays for good.
 */
import { createRequire } from 'node:module';
import { SQLSTATE, WalcadeError, asWalcadeError } from '../base/errors.ts';
import { asBuffer } from './bytes.ts';
import { checkedContentBytes, invalidFrame, withContentBytes } from './zstd-frame.ts';

export interface Zstd {
  /** The name of the library's package. */
  readonly library: string;
  /** One frame that tells its content's size; off the main thread if the library can. */
  compress: (bytes: Uint8Array, level: number) => Promise<Buffer>;
  /** The same at once: for what is too short to be worth the way to another thread. */
  compressNow: (bytes: Uint8Array, level: number) => Buffer;
  /**
   * The content of one frame. Nothing of a frame's own claims is trusted: throws 08P01 unless it
   * holds what it says, at most `contentBytesMax` bytes.
   */
  decompress: (frame: Uint8Array, contentBytesMax: number) => Buffer;
}

/** A library's functions; `decompress` throws for what is no frame of `contentBytes`. */
interface Library {
  compress: (bytes: Buffer, level: number) => Promise<Buffer>;
  compressNow: (bytes: Buffer, level: number) => Buffer;
  decompress: (frame: Buffer, contentBytes: number) => Buffer;
}

const require = createRequire(import.meta.url);

/** The libraries in the order in which they are looked for; each throws if it is not here. */
export const ZSTD_LIBRARIES: Readonly<Record<string, () => Promise<Library>>> = {
  'node:zlib': nodeLibrary,
  '@toondepauw/node-zstd': nativeLibrary,
  '@foxglove/wasm-zstd': webAssemblyLibrary,
};

let loaded: Promise<Zstd> | undefined;

/** The library in use. Throws 0A000 if none can be loaded. */
export function loadZstd(): Promise<Zstd> {
  loaded ??= loadFirst(Object.keys(ZSTD_LIBRARIES));
  return loaded;
}

/** The first of `libraries` that can be loaded. Throws 0A000 if none can. */
export async function loadFirst(libraries: readonly string[]): Promise<Zstd> {
  const reasons: string[] = [];
  for (const name of libraries) {
    try {
      const load = ZSTD_LIBRARIES[name];
      if (load !== undefined) return checking(name, await load());
    } catch (error) {
      reasons.push(`${name}: ${asWalcadeError(error).message.split('\n')[0]}.`);
    }
  }
  throw new WalcadeError(SQLSTATE.FEATURE_NOT_SUPPORTED, 'no zstd library can be loaded', {
    detail: reasons.join('\n'),
    hint: 'Use Node.js 22.15 or later, which has zstd, or install walcade with its dependencies.',
  });
}

function checking(library: string, { compress, compressNow, decompress }: Library): Zstd {
  return {
    library,
    compress: (bytes, level) => compress(asBuffer(bytes), level),
    compressNow: (bytes, level) => compressNow(asBuffer(bytes), level),
    decompress: (frame, contentBytesMax) => {
      const contentBytes = checkedContentBytes(frame, contentBytesMax);
      const content = decompressed(asBuffer(frame), contentBytes, decompress);
      if (content.length === contentBytes) return content;
      throw invalidFrame(`It announces ${contentBytes} bytes and has ${content.length}.`);
    },
  };
}

function decompressed(
  frame: Buffer,
  contentBytes: number,
  decompress: Library['decompress'],
): Buffer {
  try {
    return decompress(frame, contentBytes);
  } catch (error) {
    throw invalidFrame('It cannot be decompressed to what it announces.', error);
  }
}

interface NodeZstdOptions {
  params: Record<number, number>;
  pledgedSrcSize: number;
  chunkSize: number;
}

/** What node:zlib has from 22.15 on; the types of older versions do not know it. */
interface NodeZstd {
  constants: Record<string, number | undefined>;
  zstdCompress?: (
    bytes: Buffer,
    options: NodeZstdOptions,
    done: (error: Error | null, frame: Buffer) => void,
  ) => void;
  zstdCompressSync?: (bytes: Buffer, options: NodeZstdOptions) => Buffer;
  zstdDecompressSync?: (
    frame: Buffer,
    options: { maxOutputLength: number; chunkSize: number },
  ) => Buffer;
}

async function nodeLibrary(): Promise<Library> {
  const zlib = (await import('node:zlib')) as unknown as NodeZstd;
  const { zstdCompress, zstdCompressSync, zstdDecompressSync } = zlib;
  const levelParameter = zlib.constants['ZSTD_c_compressionLevel'];
  if (!zstdCompress || !zstdCompressSync || !zstdDecompressSync || levelParameter === undefined) {
    throw new Error(`Node.js ${process.versions.node} has no zstd`);
  }
  const optionsFor = ({ length }: Buffer, level: number): NodeZstdOptions => ({
    params: { [levelParameter]: level },
    pledgedSrcSize: length,
    chunkSize: Math.max(64, length),
  });
  return {
    compress: (bytes, level) =>
      new Promise((resolve, reject) => {
        zstdCompress(bytes, optionsFor(bytes, level), (error, frame) => {
          if (error) reject(error);
          else resolve(frame);
        });
      }),
    compressNow: (bytes, level) => zstdCompressSync(bytes, optionsFor(bytes, level)),
    decompress: (frame, contentBytes) =>
      zstdDecompressSync(frame, {
        maxOutputLength: contentBytes,
        chunkSize: Math.max(64, contentBytes),
      }),
  };
}

async function nativeLibrary(): Promise<Library> {
  const { Encoder, Decoder } = require('@toondepauw/node-zstd') as NativeZstd;
  const encoders = new Map<number, NativeEncoder>();
  const decoder = new Decoder();
  const encoderOf = (level: number): NativeEncoder => {
    const encoder = encoders.get(level) ?? new Encoder(level);
    encoders.set(level, encoder);
    return encoder;
  };
  return {
    compress: async (bytes, level) =>
      withContentBytes(await encoderOf(level).encode(bytes), bytes.length),
    compressNow: (bytes, level) =>
      withContentBytes(encoderOf(level).encodeSync(bytes), bytes.length),
    // It allocates what the frame announces, which has been checked, and writes no more.
    decompress: (frame) => decoder.decodeSync(frame),
  };
}

interface NativeEncoder {
  encode(bytes: Buffer): Promise<Buffer>;
  encodeSync(bytes: Buffer): Buffer;
}

interface NativeZstd {
  Encoder: new (level: number) => NativeEncoder;
  Decoder: new () => { decodeSync(frame: Buffer): Buffer };
}

interface WebAssemblyZstd {
  isLoaded: Promise<unknown>;
  compress(bytes: Buffer, level: number): Buffer;
  decompress(frame: Buffer, contentBytes: number): Buffer;
}

async function webAssemblyLibrary(): Promise<Library> {
  const wasm = require('@foxglove/wasm-zstd') as WebAssemblyZstd;
  await wasm.isLoaded;
  const compressNow = (bytes: Buffer, level: number): Buffer =>
    withContentBytes(wasm.compress(bytes, level), bytes.length);
  return {
    compress: async (bytes, level) => compressNow(bytes, level),
    compressNow,
    decompress: (frame, contentBytes) => wasm.decompress(frame, contentBytes),
  };
}
