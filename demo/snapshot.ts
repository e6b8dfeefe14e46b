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

export interface NodeSnapshot {
  port: number;
  status: NodeStatus;
  senders: Sender[];
}

export interface Snapshot {
  master: { port: number; version: string; position: string; senders: Sender[] };
  nodes: NodeSnapshot[];
}

/** The first moment at which all servers stream and have come to the same position. */
export async function settledSnapshot(
  master: DemoMaster,
  nodes: readonly DemoNode[],
): Promise<Snapshot> {
  return waitFor('all servers to be at one position', async () => {
    const snapshot = await takeSnapshot(master, nodes);
    return isSettled(snapshot) ? snapshot : undefined;
  });
}

async function takeSnapshot(master: DemoMaster, nodes: readonly DemoNode[]): Promise<Snapshot> {
  const facts = await master.sql(
    `SELECT current_setting('server_version'), pg_current_wal_flush_lsn()`,
  );
  const [version = '', position = ''] = facts.split('|');
  const rows = await master.sql(
    'SELECT application_name, state, sent_lsn FROM pg_stat_replication',
  );
  const senders = rows === '' ? [] : rows.split('\n').map(senderOfRow);
  return {
    master: { port: master.port, version, position, senders },
    nodes: await Promise.all(nodes.map(snapshotOfNode)),
  };
}

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

function isSettled({ master, nodes }: Snapshot): boolean {
  const { position } = master;
  const isAtEnd = ({ state, sent }: Sender): boolean => state === 'streaming' && sent === position;
  return (
    master.senders.every(isAtEnd) &&
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
export function viewOf({ master, nodes }: Snapshot): ServerView {
  const below = (senders: readonly Sender[]): ServerView[] =>
    nodes
      .filter(({ status }) => senders.some(({ downstream }) => downstream === status.name))
      .map(({ port, status, senders: own }) => ({
        name: status.name,
        port,
        program: `walcade, PostgreSQL ${status.server?.version ?? ''}`,
        parts: [receiverOf(status), ...own.map(viewOfSender), standbyOf(status)],
        downstreams: below(own),
      }));
  return {
    name: 'master',
    port: master.port,
    program: `PostgreSQL ${master.version}`,
    parts: master.senders.map(viewOfSender),
    downstreams: below(master.senders),
  };
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
