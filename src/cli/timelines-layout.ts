/**
 * Which timeline goes where in the picture of them: a column that goes straight on for the current
 * history, and branches beside it. Pure.
 *
 * Of a branch's own forks the one with the most timelines goes straight on, so that the columns of
 * any tree are few. Numbers are higher than their parents', so going through them upwards or
 * downwards meets parents before or after their children.
 */
import type { NodeTimeline } from '../node/timelines.ts';
import { INVALID_LSN, type Lsn, type TimelineId } from '../wal/lsn.ts';

/** A timeline or several in the picture, what goes on below it, and the branches in between. */
export interface Place {
  readonly shows:
    | { readonly kind: 'timeline'; readonly timeline: NodeTimeline }
    /** WAL of an ancestor past the position where the current history left it, and its branches. */
    | { readonly kind: 'rest'; readonly timeline: NodeTimeline; readonly leftAt: Lsn }
    /** Timelines of which there is nothing to say but where they forked off. */
    | { readonly kind: 'several'; readonly timelines: readonly NodeTimeline[] };
  readonly isInHistory: boolean;
  next: Place | undefined;
  branches: Place[];
}

/** More timelines than this are not shown one by one where they hold nothing. */
const SHORTENED_FROM = 20;
/** So many in a row, at least, are shown as one. */
const RUN_MIN = 4;

/** What the picture begins with; more than one where it is not known what forked off what. */
export function layOut(timelines: readonly NodeTimeline[]): Place[] {
  const children = childrenOf(timelines);
  const sizes = sizesOf(timelines);
  const places = new Map<TimelineId, Place>();
  for (const timeline of timelines.toReversed()) {
    const own = children.get(timeline.timeline) ?? [];
    places.set(timeline.timeline, placeOf(timeline, own, { places, sizes }));
  }
  const roots = timelines.filter(({ fork }) => fork === undefined);
  const laid = roots
    .toSorted((a, b) => Number(a.role === 'branch') - Number(b.role === 'branch'))
    .flatMap(({ timeline }) => places.get(timeline) ?? []);
  if (timelines.length > SHORTENED_FROM) for (const place of laid) shorten(place);
  return laid;
}

interface Known {
  places: ReadonlyMap<TimelineId, Place>;
  sizes: ReadonlyMap<TimelineId, number>;
}

function placeOf(timeline: NodeTimeline, children: readonly NodeTimeline[], known: Known): Place {
  const { role, leftAt, walEnd } = timeline;
  const shows = { kind: 'timeline', timeline } as const;
  const isInHistory = role !== 'branch';
  if (leftAt === undefined) {
    const goesOn = isInHistory ? undefined : largest(children, known);
    return { shows, isInHistory, ...below(children, goesOn, known) };
  }
  const goesOn = children.find((child) => child.role !== 'branch');
  const past = children.filter((child) => child !== goesOn && forkedAt(child) > leftAt);
  const place = {
    shows,
    isInHistory,
    ...below(
      children.filter((child) => !past.includes(child)),
      goesOn,
      known,
    ),
  };
  if (past.length > 0 || (walEnd ?? INVALID_LSN) > leftAt) {
    const rest = { kind: 'rest', timeline, leftAt } as const;
    const branches = below(past, largest(past, known), known);
    place.branches.push({ shows: rest, isInHistory: false, ...branches });
  }
  return place;
}

function below(
  children: readonly NodeTimeline[],
  goesOn: NodeTimeline | undefined,
  { places }: Known,
): Pick<Place, 'next' | 'branches'> {
  const placed = (child: NodeTimeline) => places.get(child.timeline);
  const branches = children
    .filter((child) => child !== goesOn)
    .toSorted((a, b) => (forkedAt(a) < forkedAt(b) ? -1 : forkedAt(a) > forkedAt(b) ? 1 : 0))
    .flatMap((child) => placed(child) ?? []);
  return { next: goesOn && placed(goesOn), branches };
}

function forkedAt({ fork }: NodeTimeline): Lsn {
  return fork?.at ?? INVALID_LSN;
}

function largest(children: readonly NodeTimeline[], { sizes }: Known): NodeTimeline | undefined {
  const size = ({ timeline }: NodeTimeline): number => sizes.get(timeline) ?? 0;
  // Of equals, the newest.
  return children.toSorted((a, b) => size(b) - size(a) || b.timeline - a.timeline)[0];
}

function childrenOf(timelines: readonly NodeTimeline[]): Map<TimelineId, NodeTimeline[]> {
  const children = new Map<TimelineId, NodeTimeline[]>();
  for (const timeline of timelines) {
    if (timeline.fork === undefined) continue;
    const { parent } = timeline.fork;
    const own = children.get(parent);
    if (own === undefined) children.set(parent, [timeline]);
    else own.push(timeline);
  }
  return children;
}

/** How many timelines each one has below it, itself included. */
function sizesOf(timelines: readonly NodeTimeline[]): Map<TimelineId, number> {
  const sizes = new Map<TimelineId, number>();
  for (const { timeline, fork } of timelines.toReversed()) {
    const own = (sizes.get(timeline) ?? 0) + 1;
    sizes.set(timeline, own);
    if (fork !== undefined) sizes.set(fork.parent, (sizes.get(fork.parent) ?? 0) + own);
  }
  return sizes;
}

/** Puts together, in a column and the branches beside it, what is in a row and holds nothing. */
function shorten(top: Place): void {
  for (let place: Place | undefined = top; place !== undefined; place = place.next) {
    for (const branch of place.branches) shorten(branch);
    place.branches = shortenBranches(place.branches);
    const run: NodeTimeline[] = [];
    let after = place.next;
    for (; after !== undefined; after = after.next) {
      const empty = emptyAt(after);
      if (empty === undefined) break;
      run.push(...empty);
    }
    if (run.length >= RUN_MIN) place.next = several(run, after);
  }
}

function shortenBranches(branches: readonly Place[]): Place[] {
  const empty = new Map(branches.map((branch) => [branch, emptyBelow(branch)]));
  const timelines = [...empty.values()].flatMap((each) => each ?? []);
  if (timelines.length < RUN_MIN) return [...branches];
  const others = branches.filter((branch) => empty.get(branch) === undefined);
  return [several(timelines, undefined), ...others];
}

function several(timelines: readonly NodeTimeline[], next: Place | undefined): Place {
  const isInHistory = timelines.some(({ role }) => role !== 'branch');
  return { shows: { kind: 'several', timelines }, isInHistory, next, branches: [] };
}

/** The timelines at a place and on its branches, if there is nothing to say of any of them. */
function emptyAt({ shows, branches }: Place): NodeTimeline[] | undefined {
  const timelines: NodeTimeline[] = [];
  if (shows.kind === 'several') timelines.push(...shows.timelines);
  else {
    const { role, segments, historyFile } = shows.timeline;
    if (role === 'current' || segments !== undefined || historyFile !== 'kept') return undefined;
    if (shows.kind === 'timeline') timelines.push(shows.timeline);
  }
  for (const branch of branches) {
    const empty = emptyBelow(branch);
    if (empty === undefined) return undefined;
    timelines.push(...empty);
  }
  return timelines;
}

/** The same of a place and all that goes on below it. */
function emptyBelow(top: Place): NodeTimeline[] | undefined {
  const timelines: NodeTimeline[] = [];
  for (let place: Place | undefined = top; place !== undefined; place = place.next) {
    const empty = emptyAt(place);
    if (empty === undefined) return undefined;
    timelines.push(...empty);
  }
  return timelines;
}
