/**
 * The story of the demo: a master, a slave of it, and two slaves of that slave, as it was told when
 * PostgreSQL learnt cascading replication; then what was missing there, a promotion of the slave.
 * Each step holds, or throws; the servers that were started belong to the directory that the story
 * is given.
 */
import assert from 'node:assert/strict';
import { pc } from '../src/cli/colors.ts';
import type { SqlServer } from '../test/harness/sql-server.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { DemoMaster } from './master.ts';
import { DemoNode } from './node.ts';
import { report, say, showCommand, showSql, step } from './screen.ts';
import {
  type Sender,
  masterAsPrimary,
  nodeAsPrimary,
  settledSnapshot,
  viewOf,
} from './snapshot.ts';
import { drawTree } from './tree-view.ts';

const SERVER_NAMES = ['master', 'slave', 'slave2', 'slave3'] as const;
const ROW_TIMEOUT_MS = 30_000;

/** The ports of all servers: `basePort` for the master, then one more for each. */
export function portsOf(basePort: number): number[] {
  return SERVER_NAMES.map((_, index) => basePort + index);
}

export interface StoryOptions {
  basePort: number;
  /** Ends the story; it rejects when what goes on at that moment has ended. */
  signal: AbortSignal;
}

interface Cascade {
  master: DemoMaster;
  slave: DemoNode;
  slave2: DemoNode;
  slave3: DemoNode;
}

/** Builds the cascade in `tree` and sends a row through it. */
export async function tellStory(tree: TestDirectory, options: StoryOptions): Promise<void> {
  const { basePort, signal } = options;
  const nodeAt = (name: string, offset: number): DemoNode =>
    new DemoNode(tree, { name, port: basePort + offset, signal });
  const master = await startMaster(tree, options);
  const slave = nodeAt('slave', 1);
  await makeSlave(slave, { master, signal });
  const slave2 = nodeAt('slave2', 2);
  await copySlave(slave, { slave2, masterPort: master.port });
  const slave3 = nodeAt('slave3', 3);
  await makeSlave3(slave3, slave);
  const cascade = { master, slave, slave2, slave3 };
  await sendRow({ from: master, to: [slave, slave2, slave3], value: 123 }, signal);
  await showTree(cascade);
  await promote(cascade, signal);
  suggest(cascade);
}

async function startMaster(
  tree: TestDirectory,
  { basePort, signal }: StoryOptions,
): Promise<DemoMaster> {
  chapter('A master: plain PostgreSQL, on one port.');
  const master = await DemoMaster.prepare(tree, { port: basePort, signal });
  await step('master has been made', () => master.init());
  await master.configure({ port: basePort, cluster_name: `'master'`, fsync: 'off' });
  await step(`master runs on port ${basePort}`, () => master.start());
  return master;
}

async function makeSlave(
  slave: DemoNode,
  { master, signal }: { master: DemoMaster; signal: AbortSignal },
): Promise<void> {
  chapter('A slave of it: a node with PostgreSQL, from a base backup of the master.');
  await step('slave has been made', () => slave.init(upstreamAt(master.port)));
  await step(`slave streams, and answers SQL on port ${slave.port}`, () => slave.start());
  const sql = 'create table i (x int4)';
  showSql('master', sql);
  await step('master has a table', () => master.sql(sql));
  const columns = `select column_name, data_type from information_schema.columns
                    where table_name = 'i'`;
  await step(`slave has it too: port ${slave.port} is SQL on its hot standby`, () =>
    untilAnswered(slave, { sql: columns, expected: 'x|integer', signal }),
  );
}

async function copySlave(
  slave: DemoNode,
  { slave2, masterPort }: { slave2: DemoNode; masterPort: number },
): Promise<void> {
  chapter('A slave of the slave: a copy of its directory, and three edits.');
  await step('slave is stopped', () => slave.stop());
  await step('slave2 is a copy of it', () => slave2.copyFrom(slave));
  await step('slave runs again', () => slave.start());
  await step('slave2 has another port, another name, and slave for its upstream', () =>
    slave2.edit([
      { before: `port = ${slave.port}`, after: `port = ${slave2.port}` },
      { before: `cluster_name = 'slave'`, after: `cluster_name = 'slave2'` },
      {
        before: `primary_conninfo = '${upstreamAt(masterPort)}'`,
        after: `primary_conninfo = '${upstreamAt(slave.port)}'`,
      },
    ]),
  );
  await step(`slave2 streams, and answers SQL on port ${slave2.port}`, () => slave2.start());
}

async function makeSlave3(slave3: DemoNode, slave: DemoNode): Promise<void> {
  chapter('And one more, from a base backup out of the slave, none of the master.');
  await step('slave3 has been made', () => slave3.init(upstreamAt(slave.port)));
  await step(`slave3 streams, and answers SQL on port ${slave3.port}`, () => slave3.start());
}

/** Inserts on one server and asks the others, again and again, until each has the row. */
async function sendRow(
  { from, to, value }: { from: DemoMaster | DemoNode; to: DemoNode[]; value: number },
  signal: AbortSignal,
): Promise<void> {
  chapter('A row travels.');
  const select = `select x from i where x = ${value}`;
  // The connections are there before the clock starts.
  await Promise.all(to.map((each) => each.sql(select)));
  const insert = `insert into i (x) values (${value})`;
  showSql(from.name, insert);
  const startedMs = performance.now();
  const arrivals = to.map(async (each) => {
    await untilAnswered(each, { sql: select, expected: String(value), signal });
    return { name: each.name, port: each.port, ms: performance.now() - startedMs };
  });
  const inserted = step(`${from.name} has it`, () => from.sql(insert));
  const [, ...arrived] = await Promise.all([inserted, ...arrivals]);
  for (const { name, port, ms } of arrived) {
    report(`${name}, on port ${port}: ${select} → ${value}`, `${ms.toFixed(1)} ms`);
  }
}

async function untilAnswered(
  server: SqlServer,
  { sql, expected, signal }: { sql: string; expected: string; signal: AbortSignal },
): Promise<void> {
  const giveUpMs = performance.now() + ROW_TIMEOUT_MS;
  for (;;) {
    const answer = await server.sql(sql);
    if (answer === expected) return;
    signal.throwIfAborted();
    if (performance.now() > giveUpMs) {
      throw new Error(`${server.name} answers "${answer}" to "${sql}" and not "${expected}"`);
    }
  }
}

async function showTree({ master, slave, slave2, slave3 }: Cascade): Promise<void> {
  chapter('Who sends WAL to whom.');
  showSql('master', 'select * from pg_stat_replication');
  showCommand(['walcade', 'status', '-D', 'slave', '--json']);
  const snapshot = await step('all stream, and are at the same position', () =>
    settledSnapshot(() => masterAsPrimary(master), [slave, slave2, slave3]),
  );
  say(`\n${drawTree(viewOf(snapshot))}\n`);
  const [first, second, third] = snapshot.nodes;
  const { senders } = snapshot.primary;
  claim('master has exactly one WAL sender: a row in pg_stat_replication', senders, 'slave');
  claim('slave has a WAL receiver and exactly two WAL senders', first?.senders, ...BELOW);
  claim('slave2 has a WAL receiver and no WAL sender', second?.senders);
  claim('slave3 has a WAL receiver and no WAL sender', third?.senders);
}

/** The slave becomes a primary, and keeps its slaves. */
async function promote(cascade: Cascade, signal: AbortSignal): Promise<void> {
  const { master, slave, slave2, slave3 } = cascade;
  chapter('The slave is promoted. In 2011 its slaves were lost by that.');
  const before = await sessionsOf(slave);
  await step('slave takes writes', () => slave.promote());
  await sendRow({ from: slave, to: [slave2, slave3], value: 456 }, signal);
  chapter('Who sends WAL to whom now.');
  const snapshot = await step('all stream timeline 2, and are at the same position', () =>
    settledSnapshot(() => nodeAsPrimary(slave), [slave2, slave3]),
  );
  say(`\n${drawTree(viewOf(snapshot))}\n`);
  assert.deepEqual(await sessionsOf(slave), before, 'somebody has connected anew');
  report('nobody reconnected: slave serves both on the connections from before');
  for (const { status } of snapshot.nodes) assert.equal(status.timeline, 2);
  claim('master runs on, and has no WAL sender', (await masterAsPrimary(master)).senders);
}

/** The WAL sender sessions of a node, each with the process id that stands for it. */
async function sessionsOf(node: DemoNode): Promise<string[]> {
  const { downstreams } = await node.status();
  return downstreams.map(({ applicationName, pid }) => `${applicationName} ${pid}`).sort();
}

const BELOW = ['slave2', 'slave3'];

/** Says that a server sends to those and to nobody else. */
function claim(what: string, senders: readonly Sender[] = [], ...expected: string[]): void {
  const downstreams = senders.map(({ downstream }) => downstream);
  assert.deepEqual(downstreams, expected, `${what}, but there are: ${downstreams.join(', ')}`);
  report(what);
}

function suggest({ slave, slave3 }: Cascade): void {
  const psql = (port: number, sql: string): string =>
    `  psql -h localhost -p ${port} -U postgres -c '${sql}'`;
  chapter('Try, in another terminal:');
  say('');
  say(psql(slave.port, 'insert into i values (789)'));
  say(psql(slave3.port, 'select * from i'));
  say(`  bin/walcade status -D ${slave.directory}`);
  say(`  bin/walcade timelines -D ${slave.directory}`);
  say(`  bin/walcade wal verify ${slave.directory}`);
}

function upstreamAt(port: number): string {
  return `port=${port} user=postgres`;
}

function chapter(title: string): void {
  say(`\n${pc.bold(title)}`);
}
