/** `walcade wal ls` and `walcade wal verify`: over a node's store or any folder of segments. */
import { pc } from './colors.ts';
import { findGaps, readWalFolder, verifyWalFolder } from '../node/wal-folder.ts';
import { advance, formatLsn } from '../wal/lsn.ts';
import { formatSegmentBytes } from '../wal/segment.ts';
import { formatTable } from './terminal.ts';

/** Prints the segments in `path`, one a line. */
export async function listWal(path: string, { json }: { json: boolean }): Promise<number> {
  const folder = await readWalFolder(path);
  const { segments, segmentBytes, systemIdentifier } = folder;
  const rows = segments.map(({ name, timeline, start, bytes }) => ({
    segment: name,
    timeline,
    start: formatLsn(start),
    end: formatLsn(advance(start, segmentBytes)),
    bytes,
  }));
  if (json) {
    const all = { systemIdentifier: systemIdentifier.toString(), segmentBytes, segments: rows };
    process.stdout.write(`${JSON.stringify(all, undefined, 2)}\n`);
    return 0;
  }
  const cells = rows.map((row) => [row.segment, String(row.timeline), row.start, row.end]);
  process.stdout.write(`${formatTable(['segment', 'timeline', 'start', 'end'], cells)}\n`);
  const size = formatSegmentBytes(segmentBytes);
  const count = segments.length === 1 ? '1 segment' : `${segments.length} segments`;
  process.stdout.write(`${count} of ${size}, system ${systemIdentifier}\n`);
  for (const { first, last } of findGaps(folder)) {
    process.stdout.write(`${pc.yellow('gap')}: ${first}${first === last ? '' : ` to ${last}`}\n`);
  }
  return 0;
}

/**
 * Walks all WAL in `path` and prints how far it proves true; resolves to 1 when a segment that
 * others follow is damaged. Where the last segment's WAL ends is no damage.
 */
export async function verifyWal(path: string): Promise<number> {
  const folder = await readWalFolder(path);
  let isDamaged = false;
  for await (const run of verifyWalFolder(folder)) {
    const { timeline, from, to, provenTo, finding, isInLastSegment } = run;
    const range = `timeline ${timeline}: ${formatLsn(from)} to ${formatLsn(to)}`;
    if (finding === undefined) {
      process.stdout.write(`${range}: ${pc.green('proven')} to ${formatLsn(provenTo)}\n`);
    } else if (isInLastSegment) {
      const end = formatLsn(provenTo);
      process.stdout.write(`${range}: ${pc.green('proven')} to ${end}, where WAL ends\n`);
      process.stdout.write(`  ${pc.dim(finding)}\n`);
    } else {
      isDamaged = true;
      process.stdout.write(`${range}: ${pc.red('damaged')} after ${formatLsn(provenTo)}\n`);
      process.stdout.write(`  ${finding}\n`);
    }
  }
  for (const { first, last } of findGaps(folder)) {
    isDamaged = true;
    process.stdout.write(`${pc.red('gap')}: ${first}${first === last ? '' : ` to ${last}`}\n`);
  }
  return isDamaged ? 1 : 0;
}
