/**
 * The picture of a node's timelines: the current history from top to bottom, branches beside it.
 *
 *   ○  timeline 1
 *   │
 *   ├─○  timeline 2, forked off timeline 1 at 0/4000000
 *   │
 *   ●  timeline 3, …
 */
import { formatBytes } from '../base/format-bytes.ts';
import { plainText } from '../base/plain-text.ts';
import type { NodeTimeline, NodeTimelines } from '../node/timelines.ts';
import { historyFileName } from '../wal/history.ts';
import { INVALID_LSN, type Lsn, formatLsn } from '../wal/lsn.ts';
import { formatSegmentBytes } from '../wal/segment.ts';
import { pc } from './colors.ts';
import { type Place, layOut } from './timelines-layout.ts';

export interface PictureOptions {
  /** Whether the terminal can show box-drawing characters; else it is drawn in ASCII. */
  boxes: boolean;
  /** What is longer is broken into several lines. */
  columns: number;
}

interface Strokes {
  inHistory: string;
  branch: string;
  down: string;
  fork: string;
  lastFork: string;
}

const BOXES: Strokes = { inHistory: '●', branch: '○', down: '│', fork: '├─', lastFork: '╰─' };
const ASCII: Strokes = { inHistory: '*', branch: 'o', down: '|', fork: '|-', lastFork: '`-' };

const TEXT_INDENT = 4;
/** However deep a branch is, so much of a line is left for its text. */
const TEXT_COLUMNS_MIN = 24;
const GAPS_MAX = 3;

/** The picture and a line of what it shows, with a line feed at the end of each line. */
export function drawTimelines(node: NodeTimelines, options: PictureOptions): string {
  const strokes = options.boxes ? BOXES : ASCII;
  const lines: string[] = [];
  for (const place of layOut(node.timelines)) {
    const frame = { node, strokes, columns: options.columns, lines };
    drawColumn(place, { first: '', rest: '' }, frame);
    lines.push('');
  }
  const { timelines, segmentBytes, systemIdentifier } = node;
  const isBranched = timelines.some(hasBranch);
  if (isBranched) lines.push(`${strokes.branch}  not in the current history`);
  const total = counted(timelines.length, 'timeline');
  lines.push(
    `${total}, segments of ${formatSegmentBytes(segmentBytes)}, system ${systemIdentifier}`,
  );
  return `${lines.join('\n')}\n`;
}

function hasBranch({ role, leftAt, walEnd }: NodeTimeline): boolean {
  return role === 'branch' || (leftAt !== undefined && walEnd !== undefined && walEnd > leftAt);
}

interface Frame {
  node: NodeTimelines;
  strokes: Strokes;
  columns: number;
  lines: string[];
}

/** What stands left of a column: on its first line, and on all others. */
interface Margin {
  first: string;
  rest: string;
}

function drawColumn(top: Place, margin: Margin, frame: Frame): void {
  const { strokes, lines } = frame;
  const { rest } = margin;
  let first = margin.first;
  for (let place: Place | undefined = top; place !== undefined; place = place.next) {
    const { next, branches, isInHistory } = place;
    const [head, ...facts] = describe(place, frame.node);
    const mark = isInHistory ? pc.green(strokes.inHistory) : pc.yellow(strokes.branch);
    const down = next !== undefined || branches.length > 0 ? strokes.down : ' ';
    const width = Math.max(TEXT_COLUMNS_MIN, frame.columns - rest.length - 1 - TEXT_INDENT);
    const [title = '', ...moreTitle] = wrap(head?.text ?? '', width + TEXT_INDENT - 2);
    lines.push(`${first}${mark}  ${pc.bold(title)}`);
    for (const text of moreTitle) lines.push(`${rest}${down}  ${pc.bold(text)}`);
    for (const { text, paint } of facts) {
      for (const line of wrap(text, width)) {
        lines.push(`${rest}${down}${' '.repeat(TEXT_INDENT)}${paint?.(line) ?? line}`);
      }
    }
    for (const branch of branches) {
      const isLast = next === undefined && branch === branches.at(-1);
      lines.push(`${rest}${strokes.down}`);
      drawColumn(
        branch,
        {
          first: `${rest}${isLast ? strokes.lastFork : strokes.fork}`,
          rest: `${rest}${isLast ? ' ' : strokes.down} `,
        },
        frame,
      );
    }
    if (next !== undefined) lines.push(`${rest}${strokes.down}`);
    first = rest;
  }
}

interface Fact {
  text: string;
  paint?: (text: string) => string;
}

function describe({ shows }: Place, node: NodeTimelines): Fact[] {
  if (shows.kind === 'several') return describeSeveral(shows.timelines);
  const { timeline } = shows;
  if (shows.kind === 'timeline') return describeTimeline(timeline, node);
  const title = { text: `timeline ${timeline.timeline}, past ${formatLsn(shows.leftAt)}` };
  const { walEnd } = timeline;
  return walEnd === undefined || walEnd <= shows.leftAt ? [title] : [title, notInHistory(walEnd)];
}

function describeTimeline(timeline: NodeTimeline, { isRunning }: NodeTimelines): Fact[] {
  const { role, fork, segments, walEnd, historyFile } = timeline;
  const name = `timeline ${timeline.timeline}${role === 'current' ? ', current' : ''}`;
  const facts: Fact[] = [];
  if (fork === undefined) facts.push({ text: name });
  else {
    const { parent, at, reason } = fork;
    facts.push({ text: `${name}, forked off timeline ${parent} at ${formatLsn(at)}` });
    if (reason !== '') facts.push({ text: plainText(reason) });
  }
  if (historyFile === 'damaged' || (historyFile === 'missing' && timeline.timeline > 1)) {
    const file = historyFileName(timeline.timeline);
    facts.push({ text: `history file ${file} is ${historyFile}`, paint: pc.red });
  }
  if (segments === undefined) facts.push({ text: 'no segments kept', paint: pc.dim });
  else {
    const { first, last, count, bytes, gaps } = segments;
    const names = count === 1 ? first : `${first} to ${last}`;
    facts.push({ text: `${counted(count, 'segment')} (${formatBytes(bytes)}): ${names}` });
    for (const gap of gaps.slice(0, GAPS_MAX)) {
      const missing = gap.first === gap.last ? gap.first : `${gap.first} to ${gap.last}`;
      facts.push({ text: `gap: ${missing}`, paint: pc.yellow });
    }
    const more = gaps.length - GAPS_MAX;
    if (more > 0) facts.push({ text: `and ${counted(more, 'more gap')}`, paint: pc.yellow });
  }
  if (walEnd === undefined) return facts;
  if (role === 'current') {
    const hedge = isRunning ? ', and more as the node runs' : '';
    facts.push({ text: `flushed to ${formatLsn(walEnd)}${hedge}` });
  }
  if (role === 'branch' && walEnd > (fork?.at ?? INVALID_LSN)) facts.push(notInHistory(walEnd));
  return facts;
}

/** Timelines of which nothing is kept. */
function describeSeveral(timelines: readonly NodeTimeline[]): Fact[] {
  const numbers = timelines.map(({ timeline }) => timeline).toSorted((a, b) => a - b);
  const points = timelines
    .flatMap(({ fork }) => fork?.at ?? [])
    .toSorted((a, b) => (a < b ? -1 : 1))
    .map(formatLsn);
  const branched = timelines.filter(({ role }) => role === 'branch').length;
  const isMixed = branched > 0 && branched < timelines.length;
  return [
    { text: `${counted(timelines.length, 'timeline')}, ${numbers[0]} to ${numbers.at(-1)}` },
    { text: `forked off between ${points[0]} and ${points.at(-1)}` },
    ...(isMixed ? [{ text: `${branched} of them not in the current history` }] : []),
    { text: 'no segments kept', paint: pc.dim },
  ];
}

function notInHistory(walEnd: Lsn): Fact {
  const text = `holds WAL up to ${formatLsn(walEnd)} that is not in the current history`;
  return { text, paint: pc.yellow };
}

function counted(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`;
}

/** `text` in lines of at most `width` columns, broken between words; a longer word in itself. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    const longer = line === '' ? word : `${line} ${word}`;
    if (longer.length <= width) {
      line = longer;
      continue;
    }
    if (line !== '') lines.push(line);
    const parts = word.match(new RegExp(`.{1,${width}}`, 'gu')) ?? [''];
    lines.push(...parts.slice(0, -1));
    line = parts.at(-1) ?? '';
  }
  return [...lines, line];
}
