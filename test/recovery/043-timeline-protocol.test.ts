/**
 * What a relay answers on historic timelines: byte for byte what the promoted PostgreSQL server
 * above it answers, at, before and after each switch point, again and again on one connection.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { message } from '../../src/protocol/bytes.ts';
import {
  WAL_DATA_HEADER_BYTES,
  decodeWalDataHeader,
} from '../../src/protocol/replication-messages.ts';
import { type Lsn, formatLsn, lsn, parseLsn } from '../../src/wal/lsn.ts';
import { segmentStart } from '../../src/wal/segment.ts';
import type { PostgresCluster } from '../harness/postgres-cluster.ts';
import { type Heard, RawSession, describeHeard } from '../harness/raw-session.ts';
import { TimelineTree, begin, insertRows } from '../harness/timeline-tree.ts';
import type { WalcadeNode } from '../harness/walcade-node.ts';

const COPY_DONE = message('c');
const TIMELINES = [1, 2, 3, 4];

test('every historic timeline is streamed as the promoted server streams it', async (t) => {
  const { tree, leader, relay, ends } = await promotedThrice(t);
  const flushed = parseLsn(await leader.sql('SELECT pg_current_wal_flush_lsn()'));
  await relay.waitForWal(flushed);
  const [promoted, relayed] = await bothSessions(tree, leader, relay);
  const first = segmentStart(ends[0] as Lsn, tree.segmentBytes);
  const positions = new Set<Lsn>([first]);
  for (const end of ends) {
    for (const offset of [-8192n, -8n, 0n, 8n, 8192n]) positions.add(lsn(end + offset));
  }
  const oldest = parseLsn((await relay.status()).positions.oldest);
  const given = new Map<string, string>();
  let streams = 0;
  for (const round of [1, 2]) {
    for (const timeline of [...TIMELINES, 9]) {
      for (const start of positions) {
        const command = `START_REPLICATION ${formatLsn(start)} TIMELINE ${timeline}`;
        const [theirs, ours] = await Promise.all([
          conversation(promoted, command, flushed),
          conversation(relayed, command, flushed),
        ]);
        const begun = ends[timeline - 2];
        const isEarlier = begun !== undefined && start < segmentStart(begun, tree.segmentBytes);
        if (isEarlier && start >= oldest) {
          // PostgreSQL looks for a segment in this timeline's name only, a relay in its history.
          assert.match(
            theirs.said.join(),
            /58P01\|Mrequested WAL segment .* has already been removed/,
          );
          const owner = ends.findIndex((each) => start < each) + 1;
          const wal = given.get(`${start} ${owner}`) ?? assert.fail('the owner was asked before');
          assert.ok(ours.wal.startsWith(wal), `${command} gave the WAL of timeline ${owner}`);
          continue;
        }
        assert.deepEqual(ours, theirs, `${command}, round ${round}`);
        given.set(`${start} ${timeline}`, theirs.wal);
        if (theirs.wal !== '') streams++;
      }
    }
  }
  assert.ok(streams > 20, `${streams} commands gave WAL`);
});

test('histories are told as the promoted server tells them', async (t) => {
  const { tree, leader, relay } = await promotedThrice(t);
  const sessions = await bothSessions(tree, leader, relay);
  for (const command of [
    ...[1, 2, 3, 4, 5].map((timeline) => `TIMELINE_HISTORY ${timeline}`),
    'CREATE_REPLICATION_SLOT made PHYSICAL',
    'READ_REPLICATION_SLOT made',
    'DROP_REPLICATION_SLOT made',
    'START_REPLICATION 0/1000000 TIMELINE 5',
    'START_REPLICATION SLOT nosuch 0/1000000 TIMELINE 1',
    'START_REPLICATION FFFF/0 TIMELINE 1',
  ]) {
    const [theirs, ours] = await Promise.all(
      sessions.map(async (session) => {
        session.query(command);
        return (await session.until('Z')).flatMap(bytesOf);
      }),
    );
    assert.deepEqual(ours, theirs, command);
  }
});

test('a client is led over each switch as it happens, by either in the same words', async (t) => {
  const tree = await TimelineTree.create(t, { segmentMegabytes: 16 });
  const { primary } = tree;
  const middle = await tree.standby('middle', primary);
  const leader = await tree.standby('leader', middle);
  const relay = await tree.relay('relay', leader);
  const start = await primary.currentLsn();
  for (const server of [middle, leader]) await server.waitForReplay(start);
  await relay.waitForWal(start);
  const sessions = await bothSessions(tree, leader, relay);
  let from = start;
  for (const [index, [old, next]] of [
    [primary, middle],
    [middle, leader],
  ].entries()) {
    const timeline = index + 1;
    const command = `START_REPLICATION ${formatLsn(from)} TIMELINE ${timeline}`;
    for (const session of sessions) assert.deepEqual(await session.answer(command), ['W']);
    await insertRows(old as PostgresCluster, `the last of timeline ${timeline}`, 100);
    await leader.waitForCatchup(old as PostgresCluster);
    await (old as PostgresCluster).stop();
    await (next as PostgresCluster).promote();
    await insertRows(next as PostgresCluster, `the first of timeline ${timeline + 1}`, 100);
    const heard = await Promise.all(sessions.map((session) => listen(session, from)));
    assert.deepEqual(heard[1], heard[0]);
    from = await begin(next as PostgresCluster, timeline + 1);
    assert.equal(heard[1]?.end, from);
  }
});

interface Promoted {
  tree: TimelineTree;
  /** The primary of timeline 4. */
  leader: PostgresCluster;
  /** Below it since timeline 1. */
  relay: WalcadeNode;
  /** Where timelines 1, 2 and 3 ended. */
  ends: Lsn[];
}

/** Three promotions, the first two in one segment, the third in a later one. */
async function promotedThrice(t: TestContext): Promise<Promoted> {
  const tree = await TimelineTree.create(t);
  const { primary } = tree;
  const line = [primary];
  for (const name of ['first', 'second', 'leader']) {
    line.push(await tree.standby(name, line.at(-1) as PostgresCluster));
  }
  const leader = line.at(-1) as PostgresCluster;
  const relay = await tree.relay('relay', leader);
  // Who asks for what was never written is taken for a standby that has it.
  relay.expectLog(/WARNING: .* standby "" has WAL that is not in this server's history/);
  for (const [index, next] of line.slice(1).entries()) {
    const old = line[index] as PostgresCluster;
    await insertRows(old, `of timeline ${index + 1}`, index === 2 ? 20_000 : 3);
    await leader.waitForCatchup(old);
    await old.stop();
    await next.promote();
  }
  await insertRows(leader, 'of timeline 4', 100);
  const ends = await Promise.all([2, 3, 4].map((timeline) => begin(leader, timeline)));
  return { tree, leader, relay, ends };
}

async function bothSessions(
  { directory }: TimelineTree,
  leader: PostgresCluster,
  relay: WalcadeNode,
): Promise<[RawSession, RawSession]> {
  const identified = async (port: number): Promise<RawSession> => {
    const session = await RawSession.start(directory, port);
    // Up to 14 a standby streams to nobody who has not asked this.
    await session.answer('IDENTIFY_SYSTEM');
    return session;
  };
  return [await identified(leader.port), await identified(relay.port)];
}

/**
 * All that a server says to a START_REPLICATION, with the WAL of its messages in one piece, where
 * they begin and what they tell of the end of a historic timeline. A timeline that goes on is left
 * at `until`.
 */
async function conversation(session: RawSession, command: string, until: Lsn) {
  session.query(command);
  const said: string[] = [];
  const wal: Buffer[] = [];
  let hasLeft = false;
  for (;;) {
    const heard = (await session.next()) ?? assert.fail(`closed after ${command}`);
    if (heard.type !== 'd') said.push(...bytesOf(heard));
    if (heard.type === 'Z') return { said, wal: Buffer.concat(wal).toString('hex') };
    if (heard.type === 'c' && !hasLeft) session.write(COPY_DONE);
    if (describeHeard(heard) !== 'd w') continue;
    const { start } = decodeWalDataHeader(heard.body);
    const bytes = heard.body.subarray(WAL_DATA_HEADER_BYTES);
    wal.push(bytes.subarray(0, Math.max(0, Number(until - start))));
    if (hasLeft || start + BigInt(bytes.length) < until) continue;
    hasLeft = true;
    session.write(COPY_DONE);
  }
}

/** What comes on a stream from `start` until its server ends it, keepalives left out. */
async function listen(session: RawSession, start: Lsn) {
  const wal: Buffer[] = [];
  for (;;) {
    const heard = (await session.next()) ?? assert.fail('closed while streaming');
    if (heard.type === 'c') break;
    if (describeHeard(heard) === 'd w') wal.push(heard.body.subarray(WAL_DATA_HEADER_BYTES));
  }
  session.write(COPY_DONE);
  const said = (await session.until('Z')).flatMap(bytesOf);
  const bytes = Buffer.concat(wal);
  return { said, wal: bytes.toString('hex'), end: lsn(start + BigInt(bytes.length)) };
}

/**
 * A message's type and body. An error's without file, line and function, which only C has; what a
 * server says of itself meanwhile, as that it has become a primary, is no part of an answer.
 */
function bytesOf(heard: Heard): string[] {
  const { type, body } = heard;
  if (type === 'S') return [];
  if (type !== 'E') return [`${type} ${body.toString('hex')}`];
  const fields = body.toString().split('\0');
  return [`E ${fields.filter((field) => !/^[FLR]/.test(field)).join('|')}`];
}
