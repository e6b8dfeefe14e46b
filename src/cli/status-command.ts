/** `walcade status`: what a running node says of itself. */
import { readStatus } from '../admin/control-client.ts';
import type { LinkStatus, NodeStatus } from '../admin/node-status.ts';
import { formatBytes } from '../base/format-bytes.ts';
import { askIfRunning } from './asked-node.ts';
import { pc } from './colors.ts';
import { formatFacts, formatTable } from './terminal.ts';

export const STOPPED_EXIT_STATUS = 3;

/** Prints the status of the node in `directory`; resolves to 3 when it is stopped, as pg_ctl's. */
export async function statusCommand(
  directory: string,
  { json }: { json: boolean },
): Promise<number> {
  const asked = await askIfRunning(directory, readStatus);
  if (asked.kind === 'stopped') {
    process.stdout.write(json ? '{"state":"stopped"}\n' : `node in "${directory}" is stopped\n`);
    return STOPPED_EXIT_STATUS;
  }
  const { answer: status } = asked;
  process.stdout.write(json ? `${JSON.stringify(status, undefined, 2)}\n` : describe(status));
  return 0;
}

function describe(status: NodeStatus): string {
  const { upstream, positions } = status;
  const facts: [string, string][] = [
    ['node', `${pc.bold(status.name)} (PID ${status.pid}), ${status.state}`],
    ['listening on', status.listen.join(', ')],
    ['system', `${status.systemIdentifier}, PostgreSQL ${status.serverVersion}`],
    ['upstream', describeUpstream(status)],
    ...because(upstream),
    ...(upstream.link === null ? [] : [linkFact(upstream.link)]),
    ['timeline', String(status.timeline)],
    ['received', `${positions.received}${describeLag(upstream.lagBytes, 'behind upstream')}`],
    ['proven', positions.proven],
    ['flushed', positions.flushed],
    ['kept from', positions.oldest],
    ...describeServer(status.server),
  ];
  if (status.failure !== null) facts.push(['failure', pc.red(status.failure)]);
  let text = formatFacts(facts);
  if (status.downstreams.length > 0) {
    const rows = status.downstreams.map((d) => [
      d.applicationName || d.user,
      d.address,
      d.state,
      d.sent ?? '-',
      d.write ?? '-',
      d.flush ?? '-',
      d.replay ?? '-',
      d.lagBytes === null ? '-' : formatBytes(d.lagBytes),
      d.slot ?? '-',
      describeLink(d.link),
    ]);
    const headings = 'downstream,address,state,sent,write,flush,replay,lag,slot,link'.split(',');
    text += `\n${formatTable(headings, rows)}\n`;
  } else text += '\nno downstreams\n';
  if (status.diverged.length > 0) text += `\n${describeDiverged(status.diverged)}\n`;
  if (status.slots.length === 0) return text;
  const rows = status.slots.map((slot) => [
    slot.name,
    slot.active ? 'active' : 'inactive',
    slot.restartLsn ?? '-',
    slot.keptBytes === null ? '-' : formatBytes(slot.keptBytes),
  ]);
  return `${text}\n${formatTable(['slot', 'state', 'restart LSN', 'keeps'], rows)}\n`;
}

function linkFact(link: LinkStatus): [string, string] {
  return ['link', describeLink(link)];
}

/** `zstd 3.1x, 1.2 GB saved`; of a link that is not compressed, what went over it. */
export function describeLink({ compression, wireBytes, walBytes, savedBytes }: LinkStatus): string {
  if (compression === 'off') return `not compressed, ${formatBytes(wireBytes)}`;
  const ratio = wireBytes === 0 ? 1 : walBytes / wireBytes;
  return `${compression} ${ratio.toFixed(1)}x, ${formatBytes(savedBytes)} saved`;
}

/** Why the upstream is not streaming, on a line of its own. */
function because({ reason }: NodeStatus['upstream']): [string, string][] {
  return reason === null ? [] : [['', pc.yellow(reason)]];
}

/** Standbys that this node cannot lead on. */
function describeDiverged(diverged: NodeStatus['diverged']): string {
  const rows = diverged.map((d) => [
    d.applicationName || d.user,
    d.address,
    `${d.position} on timeline ${d.timeline}`,
    d.switchPoint,
  ]);
  return formatTable(['diverged standby', 'address', 'is at', 'forked at'], rows);
}

/** The lines on the attached server; none for a relay. */
export function describeServer(server: NodeStatus['server']): [string, string][] {
  if (server === null) return [];
  const { version, role, state, pid, reason, restarts, replay, lagBytes } = server;
  const process = pid === null ? '' : ` (PID ${pid})`;
  const again = restarts === 0 ? '' : `, started again ${formatTimes(restarts)}`;
  const facts: [string, string][] = [
    ['server', `PostgreSQL ${version}${process}, ${role}, ${state}${again}`],
  ];
  if (reason !== null) facts.push(['', pc.yellow(reason)]);
  if (replay !== null) facts.push(['replayed', `${replay}${describeLag(lagBytes, 'behind')}`]);
  return facts;
}

function formatTimes(count: number): string {
  return count === 1 ? 'once' : `${count} times`;
}

function describeUpstream({ upstream, timeline: own }: NodeStatus): string {
  const { timeline, isAttached, address, state, conninfo, slot } = upstream;
  const where = isAttached ? 'its own server, which leads' : (address ?? (conninfo || 'none'));
  const ahead = timeline === null || timeline === own ? '' : ` on timeline ${timeline}`;
  return `${where}${ahead}, ${state}${slot === null ? '' : `, slot ${slot}`}`;
}

function describeLag(bytes: number | null, what: string): string {
  return bytes === null || bytes === 0 ? '' : ` (${formatBytes(bytes)} ${what})`;
}
