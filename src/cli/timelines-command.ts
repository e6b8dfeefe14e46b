/** `walcade timelines`: the history of a node's WAL as a picture, from its files alone. */
import { type NodeTimeline, type NodeTimelines, readTimelines } from '../node/timelines.ts';
import { type Lsn, formatLsn } from '../wal/lsn.ts';
import { formatSegmentBytes } from '../wal/segment.ts';
import { canDrawBoxes, printError } from './terminal.ts';
import { drawTimelines } from './timelines-picture.ts';

/**
 * Prints the timelines of the node in `directory`, then what is wrong with its history; resolves to
 * 1 if anything is.
 */
export async function timelinesCommand(
  directory: string,
  { json }: { json: boolean },
): Promise<number> {
  const node = await readTimelines(directory);
  if (json) process.stdout.write(`${JSON.stringify(describe(node), undefined, 2)}\n`);
  else {
    const { isTTY, columns } = process.stdout;
    // What is piped is for a program that looks at lines.
    const width = isTTY ? columns : Number.MAX_SAFE_INTEGER;
    process.stdout.write(drawTimelines(node, { boxes: canDrawBoxes(), columns: width }));
  }
  for (const problem of node.problems) printError(problem);
  return node.problems.length === 0 ? 0 : 1;
}

/** As `walcade status --json`: LSNs are `X/X` texts, bytes numbers; what is not known is null. */
function describe({ timelines, problems, ...node }: NodeTimelines) {
  const current = timelines.find(({ role }) => role === 'current');
  return {
    state: node.isRunning ? 'running' : 'stopped',
    systemIdentifier: node.systemIdentifier.toString(),
    segmentSize: formatSegmentBytes(node.segmentBytes),
    timeline: current?.timeline ?? null,
    timelines: timelines.map(describeTimeline),
    problems: problems.map(({ message, detail, hint }) => ({
      message,
      detail: detail ?? null,
      hint: hint ?? null,
    })),
  };
}

function describeTimeline(each: NodeTimeline) {
  const { timeline, role, fork, leftAt, historyFile, segments, walEnd } = each;
  return {
    timeline,
    role,
    parent: fork?.parent ?? null,
    forkedAt: formatKnown(fork?.at),
    reason: fork?.reason ?? null,
    leftAt: formatKnown(leftAt),
    historyFile,
    walEnd: formatKnown(walEnd),
    segments:
      segments === undefined
        ? null
        : {
            first: segments.first,
            last: segments.last,
            count: segments.count,
            bytes: segments.bytes,
            gaps: segments.gaps,
          },
  };
}

function formatKnown(position: Lsn | undefined): string | null {
  return position === undefined ? null : formatLsn(position);
}
