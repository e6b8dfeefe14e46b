/**
 * A process that proves a range of stored WAL, as a node does while it receives: in chunks of the
 * size in which a socket gives them. It says what that took, as JSON; reading the files is not
 * counted, and neither is the first segment, over which the code is compiled.
 *
 *   node --import tsx bench/prove.ts DIRECTORY START END
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lsn, advance, parseLsn, timelineId } from '../src/wal/lsn.ts';
import { segmentName } from '../src/wal/segment.ts';
import { WalWalker } from '../src/wal/walker.ts';

const SEGMENT_BYTES = 16 * 1024 * 1024;
const CHUNK_BYTES = 64 * 1024;

const [directory = '', from = '', to = ''] = process.argv.slice(2);
const start = parseLsn(from);
const end = parseLsn(to);

const walker = new WalWalker({ segmentBytes: SEGMENT_BYTES, start, startsAt: 'segment' });
let cpuMicroseconds = 0;
let bytes = 0;
for (let at: Lsn = start; at < end; at = advance(at, SEGMENT_BYTES)) {
  const segment = await readFile(join(directory, segmentName(timelineId(1), at, SEGMENT_BYTES)));
  const before = process.cpuUsage();
  for (let offset = 0; offset < SEGMENT_BYTES; offset += CHUNK_BYTES) {
    walker.push(segment.subarray(offset, offset + CHUNK_BYTES));
  }
  const { user, system } = process.cpuUsage(before);
  if (at === start) continue;
  cpuMicroseconds += user + system;
  bytes += SEGMENT_BYTES;
}
if (walker.proven < end) throw new Error('the walker has not proven all of the range');
process.stdout.write(JSON.stringify({ cpuSeconds: cpuMicroseconds / 1e6, bytes }));
