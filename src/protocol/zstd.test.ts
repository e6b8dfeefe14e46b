/** zstd by every library that is here: one reads what another wrote, and none trusts a frame. */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import * as fc from 'fast-check';
import { WalcadeError } from '../base/errors.ts';
import { ZSTD_LIBRARIES, type Zstd, loadFirst, loadZstd } from './zstd.ts';

const BYTES_MAX = 128 * 1024;

/** The libraries that this Node.js can load: node:zlib has no zstd before 22.15. */
const libraries: Zstd[] = [];
for (const name of Object.keys(ZSTD_LIBRARIES)) {
  const zstd = await loadFirst([name]).catch(() => undefined);
  if (zstd !== undefined) libraries.push(zstd);
}

const walLike = Buffer.concat(
  Array.from({ length: 900 }, (_, i) => Buffer.from(`record ${i} of table 16384 ${i * 7919}\0\0`)),
);
const contents = {
  'one byte': Buffer.from([7]),
  '300 bytes': walLike.subarray(0, 300),
  'zeros to the limit': Buffer.alloc(BYTES_MAX),
  records: walLike,
  'what does not compress': randomBytes(BYTES_MAX),
};

function isRefusal(error: unknown): boolean {
  assert.ok(error instanceof WalcadeError, String(error));
  assert.equal(error.sqlstate, '08P01');
  assert.equal(error.message, 'invalid compressed WAL data');
  return true;
}

test('at least two libraries are here, and one is chosen', async () => {
  assert.ok(libraries.length >= 2);
  assert.equal((await loadZstd()).library, libraries[0]?.library);
});

test('where no library can be loaded it is said why', async () => {
  await assert.rejects(loadFirst([]), { sqlstate: '0A000' });
});

for (const [what, content] of Object.entries(contents)) {
  test(`frames of each library are read by each: ${what}`, async () => {
    for (const writer of libraries) {
      for (const level of [1, 3, 6]) {
        const frame = await writer.compress(content, level);
        const sameFrame = writer.compressNow(content, level);
        for (const reader of libraries) {
          for (const each of [frame, sameFrame]) {
            const read = reader.decompress(each, BYTES_MAX);
            assert.ok(read.equals(content), `${writer.library} to ${reader.library}`);
          }
        }
      }
    }
  });
}

test('frames of many callers at once are each their own', async () => {
  for (const zstd of libraries) {
    const all = Array.from({ length: 40 }, (_, i) => Buffer.concat([walLike, Buffer.from([i])]));
    const frames = await Promise.all(all.map((content) => zstd.compress(content, 1)));
    for (const [i, frame] of frames.entries()) {
      assert.ok(zstd.decompress(frame, BYTES_MAX).equals(all[i] as Buffer));
    }
  }
});

test('a frame that is cut anywhere, or followed by anything, is refused', async () => {
  for (const zstd of libraries) {
    const frame = await zstd.compress(walLike.subarray(0, 2000), 1);
    for (let length = 0; length < frame.length; length++) {
      assert.throws(() => zstd.decompress(frame.subarray(0, length), BYTES_MAX), isRefusal);
    }
    for (const after of [Buffer.from([0]), frame]) {
      assert.throws(() => zstd.decompress(Buffer.concat([frame, after]), BYTES_MAX), isRefusal);
    }
  }
});

test('a frame of more than is allowed is refused before it is decompressed', async () => {
  for (const zstd of libraries) {
    const frame = await zstd.compress(Buffer.alloc(BYTES_MAX + 1), 1);
    assert.throws(() => zstd.decompress(frame, BYTES_MAX), isRefusal);
    const large = await zstd.compress(Buffer.alloc(40 * 1024 * 1024), 1);
    assert.throws(() => zstd.decompress(large, BYTES_MAX), isRefusal);
  }
});

test('a frame that announces less than it holds gives no more than it announces', () => {
  const frame = bomb({ contentBytes: 1000, blocks: 5000 });
  for (const zstd of libraries) {
    const before = process.memoryUsage().rss;
    assert.throws(() => zstd.decompress(frame, BYTES_MAX), isRefusal);
    assert.ok(process.memoryUsage().rss - before < 64 * 1024 * 1024, zstd.library);
  }
});

test('a frame that announces more than it holds is refused', () => {
  const frame = bomb({ contentBytes: BYTES_MAX, blocks: 1, blockBytes: 1000 });
  for (const zstd of libraries) assert.throws(() => zstd.decompress(frame, BYTES_MAX), isRefusal);
});

test('flipped bits are refused, or give what has the announced length', async () => {
  for (const zstd of libraries) {
    const frame = await zstd.compress(walLike.subarray(0, 3000), 1);
    fc.assert(
      fc.property(fc.nat(frame.length * 8 - 1), (bit) => {
        const broken = Buffer.from(frame);
        const at = bit >> 3;
        broken.writeUInt8(broken.readUInt8(at) ^ (1 << (bit & 7)), at);
        try {
          assert.ok(zstd.decompress(broken, BYTES_MAX).length <= BYTES_MAX);
        } catch (error) {
          isRefusal(error);
        }
      }),
    );
    const rest = await zstd.compress(walLike, 1);
    assert.ok(zstd.decompress(rest, BYTES_MAX).equals(walLike), 'the library goes on working');
  }
});

test('bytes of any kind are refused or decompressed, never more', () => {
  const head = Buffer.from('28b52ffda0', 'hex');
  for (const zstd of libraries) {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), fc.boolean(), (bytes, isFrame) => {
        const frame = isFrame ? Buffer.concat([head, bytes]) : bytes;
        try {
          assert.ok(zstd.decompress(frame, BYTES_MAX).length <= BYTES_MAX);
        } catch (error) {
          isRefusal(error);
        }
      }),
    );
  }
});

/** A frame of blocks that each repeat one byte. */
function bomb({
  contentBytes,
  blocks,
  blockBytes = BYTES_MAX,
}: {
  contentBytes: number;
  blocks: number;
  blockBytes?: number;
}): Buffer {
  const header = Buffer.alloc(9);
  header.write('28b52ffda0', 'hex');
  header.writeUInt32LE(contentBytes, 5);
  const all = Array.from({ length: blocks }, (_, i) => {
    const block = Buffer.alloc(4, 0x41);
    block.writeUIntLE((blockBytes << 3) | 2 | Number(i === blocks - 1), 0, 3);
    return block;
  });
  return Buffer.concat([header, ...all]);
}
