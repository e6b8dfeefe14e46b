/** Base backups that pass through a node while servers are promoted around it. */
import assert from 'node:assert/strict';
import type { Duplex } from 'node:stream';
import { test } from 'node:test';
import { settle } from '../../test/harness/manual-clock.ts';
import { MemoryNode } from '../../test/harness/memory-node.ts';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { WAL } from '../../test/harness/test-store.ts';
import { START, made } from '../../test/harness/wal-walks.ts';
import { writeFileDurably } from '../base/disk.ts';
import {
  COPY_DONE,
  TYPE_OID,
  encodeCommandComplete,
  encodeCopyOutResponse,
  encodeDataRow,
  encodeReadyForQuery,
  encodeRowDescription,
} from '../protocol/backend-messages.ts';
import { encodeCopyData, encodeQuery } from '../protocol/frontend-messages.ts';
import { encodeStartup } from '../protocol/startup.ts';
import { parseHistoryFile } from '../wal/history.ts';
import { type Lsn, formatLsn, timelineId } from '../wal/lsn.ts';

const ONE = made([40, 9_000, 300_000, 24].map((bodyBytes) => ({ bodyBytes })));
const SWITCH_POINT = endOf(2);
const TWO = timelineId(2);

// pg_basebackup asks for WAL of that timeline at once, and was told that there is none.
test('where a backup begins is told when the node has followed to its timeline', async () => {
  const backup = await begin();
  await backup.sendsBegin(endOf(2), 2);
  await backup.node.clock.pass(29_000);
  assert.doesNotMatch(backup.heard(), /SELECT/);
  await followTo2(backup.node);
  await settle();
  assert.match(backup.heard(), new RegExp(formatLsn(endOf(2))));
  await backup.sendsEnd(endOf(3), 2);
  assert.match(backup.heard(), new RegExp(`content.*${formatLsn(endOf(3))}.*BASE_BACKUP`, 's'));
  await backup.node.close();
});

test('a node that receives WAL is given time to follow, one that stands still is not', async () => {
  const backup = await begin({ until: endOf(0) });
  await backup.sendsBegin(endOf(2), 2);
  for (let index = 1; index < 3; index += 1) {
    await backup.node.clock.pass(20_000);
    await backup.node.store.appendDurably(ONE.wal, endOf(index));
  }
  await backup.node.clock.pass(20_000);
  assert.doesNotMatch(backup.heard(), /SELECT/);
  await backup.node.clock.pass(30_000);
  const heard = backup.heard();
  assert.match(heard, /C55000.*Mbase backup is of timeline 2, to which this node does not follow/s);
  assert.match(heard, /on timeline 1 at .* received nothing for 30 s.*walcade status/s);
  // The session goes on.
  assert.ok(heard.endsWith(encodeReadyForQuery().toString('latin1')));
  await backup.node.close();
});

test('a backup that waits for its node can be cancelled, and holds no WAL after that', async () => {
  const backup = await begin();
  await backup.sendsBegin(endOf(2), 2);
  assert.equal(backup.node.context.backupStarts.size, 1);
  backup.socket.destroy();
  await settle();
  assert.equal(backup.node.context.backupStarts.size, 0);
  assert.equal(backup.node.context.downstreams.all().length, 0);
  await backup.node.close();
});

test('a backup of the branch that the node has left is refused, with what to do', async () => {
  const backup = await begin();
  await followTo2(backup.node);
  await backup.sendsBegin(endOf(3), 1);
  const heard = backup.heard();
  assert.match(heard, /begins at .* on timeline 1, which is not in this node's history/);
  assert.match(heard, new RegExp(`forked from it at ${formatLsn(SWITCH_POINT)}`));
  assert.match(heard, /Take the backup again/);
  await backup.node.close();
});

test('so is one whose server stayed on its branch while the node left that', async () => {
  const backup = await begin();
  await backup.sendsBegin(endOf(0), 1);
  assert.match(backup.heard(), new RegExp(formatLsn(endOf(0))));
  await followTo2(backup.node);
  await backup.sendsEnd(endOf(3), 1);
  assert.match(backup.heard(), /ends at .* on timeline 1, which is not in this node's history/);
  await backup.node.close();
});

test('one that ends before its timeline was left is good', async () => {
  const backup = await begin();
  await followTo2(backup.node);
  await backup.sendsBegin(endOf(0), 1);
  await backup.sendsEnd(SWITCH_POINT, 1);
  assert.match(backup.heard(), new RegExp(`content.*${formatLsn(SWITCH_POINT)}.*BASE_BACKUP`, 's'));
  await backup.node.close();
});

test('so is one that ends on a timeline to which the node has still to follow', async () => {
  const backup = await begin();
  await backup.sendsBegin(endOf(0), 1);
  await backup.sendsEnd(endOf(3), 2);
  assert.match(backup.heard(), new RegExp(`content.*${formatLsn(endOf(3))}.*BASE_BACKUP`, 's'));
  await backup.node.close();
});

/** A node on timeline 1 that passes a backup through, of which its upstream has sent nothing. */
async function begin({ until }: { until?: Lsn } = {}) {
  const node = await MemoryNode.open(until === undefined ? ONE.wal : before(until));
  const upstream = new MemoryUpstream();
  node.connectUpstream = () => upstream.connect();
  const socket: Duplex = node.connect();
  let bytes = '';
  socket.on('data', (chunk: Buffer) => {
    bytes += chunk.toString('latin1');
  });
  socket.write(encodeStartup({ user: 'postgres', replication: 'true' }));
  await settle();
  socket.write(encodeQuery('BASE_BACKUP'));
  while (!upstream.heard().includes('BASE_BACKUP')) await settle();
  bytes = '';
  const heard = (): string => {
    const text = bytes;
    bytes = '';
    return text;
  };
  const sendsBegin = (position: Lsn, timeline: number): Promise<void> =>
    upstream.say(...positionResult(position, timeline), ...tablespaceResult(), CONTENT_BEGIN);
  const sendsEnd = (position: Lsn, timeline: number): Promise<void> =>
    upstream.say(
      encodeCopyData(Buffer.from('content')),
      COPY_DONE,
      ...positionResult(position, timeline),
      encodeCommandComplete('BASE_BACKUP'),
      encodeReadyForQuery(),
    );
  return { node, socket, heard, sendsBegin, sendsEnd };
}

const CONTENT_BEGIN = encodeCopyOutResponse();

function positionResult(position: Lsn, timeline: number): Buffer[] {
  return [
    encodeRowDescription([
      { name: 'recptr', typeOid: TYPE_OID.TEXT },
      { name: 'tli', typeOid: TYPE_OID.INT8, typeBytes: 8 },
    ]),
    encodeDataRow([formatLsn(position), String(timeline)]),
    encodeCommandComplete('SELECT'),
  ];
}

function tablespaceResult(): Buffer[] {
  return [
    encodeRowDescription([{ name: 'spcoid', typeOid: TYPE_OID.OID }]),
    encodeDataRow([null]),
    encodeCommandComplete('SELECT'),
  ];
}

/** Has the node go on with timeline 2. */
async function followTo2({ store }: MemoryNode): Promise<void> {
  const text = `1\t${formatLsn(SWITCH_POINT)}\tno recovery target specified\n`;
  await writeFileDurably(store.disk, `${WAL}/00000002.history`, Buffer.from(text));
  const history = parseHistoryFile(TWO, text);
  await store.store.branch({ history, at: SWITCH_POINT }, store.ended);
}

/** The end of the record `index`. */
function endOf(index: number): Lsn {
  return ONE.records[index]?.end ?? assert.fail();
}

/** The WAL from the store's beginning up to `end`. */
function before(end: Lsn): Buffer {
  return ONE.wal.subarray(0, Number(end - START));
}
