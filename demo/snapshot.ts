/** What the servers of the cascade say of themselves at one moment. */
import type { NodeStatus } from '../src/admin/node-status.ts';
import { waitFor } from '../test/harness/wait.ts';
import type { DemoMaster } from './master.ts';
import type { DemoNode } from './node.ts';
import type { PartView, ServerView } from './tree-view.ts';

export interface Sender {
  downstream: string;
  state: string;
  sent: string;
}

/** A server that all WAL comes from. */
export interface Primary {
  name: string;
  port: number;
  program: string;
  /** What it has running besides its WAL senders. */
  parts: PartView[];
  position: string;
  senders: Sender[];
}

export interface NodeSnapshot {
  port: number;
  status: NodeStatus;
  senders: Sender[];
}

export interface Snapshot {
  primary: Primary;
  nodes: NodeSnapshot[];
}

/** The first moment at which all servers stream and have come to the same position. */
export async function settledSnapshot(
  primary: () => Promise<Primary>,
  nodes: readonly DemoNode[],
): Promise<Snapshot> {
  return waitFor('all servers to be at one position', async () => {
    const snapshot = {
      primary: await primary(),
      nodes: await Promise.all(nodes.map(snapshotOfNode)),
    };
    return isSettled(snapshot) ? snapshot : undefined;
  });
}

export async function masterAsPrimary(master: DemoMaster): Promise<Primary> {
  const [version = '', position = ''] = (await master.sql(FACTS)).split('|');
  const rows = await master.sql(
    'SELECT application_name, state, sent_lsn FROM pg_stat_replication',
  );
  const senders = rows === '' ? [] : rows.split('\n').map(senderOfRow);
  const program = `PostgreSQL ${version}`;
  return { name: 'master', port: master.port, program, parts: [], position, senders };
}

/** A node that was promoted. */
export async function nodeAsPrimary(node: DemoNode): Promise<Primary> {
  const [, position = ''] = (await node.sql(FACTS)).split('|');
  const { status, senders } = await snapshotOfNode(node);
  const { name, server } = status;
  const primary = { what: 'primary', state: server?.state ?? '', position };
  return {
    name,
    port: node.port,
    program: programOf(status),
    parts: [primary, receiverOf(status)],
    position,
    senders,
  };
}

const FACTS = `SELECT current_setting('server_version'), pg_current_wal_flush_lsn()`;

function senderOfRow(row: string): Sender {
  const [downstream = '', state = '', sent = ''] = row.split('|');
  return { downstream, state, sent };
}

async function snapshotOfNode(node: DemoNode): Promise<NodeSnapshot> {
  const status = await node.status();
  const senders = status.downstreams
    .map(({ applicationName, state, sent }) => ({
      downstream: applicationName,
      state,
      sent: sent ?? '',
    }))
    .sort((a, b) => (a.downstream < b.downstream ? -1 : 1));
  return { port: node.port, status, senders };
}

function isSettled({ primary, nodes }: Snapshot): boolean {
  const { position } = primary;
  const isAtEnd = ({ state, sent }: Sender): boolean => state === 'streaming' && sent === position;
  return (
    primary.senders.every(isAtEnd) &&
    nodes.every(
      ({ status: { upstream, positions, server }, senders }) =>
        upstream.state === 'streaming' &&
        positions.received === position &&
        server?.replay === position &&
        senders.every(isAtEnd),
    )
  );
}

/** The servers below each other as the WAL flows, each with what its parts do. */
export function viewOf({ primary, nodes }: Snapshot): ServerView {
  const below = (senders: readonly Sender[]): ServerView[] =>
    nodes
      .filter(({ status }) => senders.some(({ downstream }) => downstream === status.name))
      .map(({ port, status, senders: own }) => ({
        name: status.name,
        port,
        program: programOf(status),
        parts: [receiverOf(status), ...own.map(viewOfSender), standbyOf(status)],
        downstreams: below(own),
      }));
  const { name, port, program, parts, senders } = primary;
  return {
    name,
    port,
    program,
    parts: [...parts, ...senders.map(viewOfSender)],
    downstreams: below(senders),
  };
}

function programOf({ server, timeline }: NodeStatus): string {
  const line = timeline === 1 ? '' : `, timeline ${timeline}`;
  return `walcade, PostgreSQL ${server?.version ?? ''}${line}`;
}

function viewOfSender({ downstream, state, sent }: Sender): PartView {
  return { what: `WAL sender to ${downstream}`, state, position: sent };
}

function receiverOf({ upstream, positions }: NodeStatus): PartView {
  return { what: 'WAL receiver', state: upstream.state, position: positions.received };
}

function standbyOf({ server }: NodeStatus): PartView {
  return { what: 'hot standby', state: server?.state ?? '', position: server?.replay ?? '' };
}
