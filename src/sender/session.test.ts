/** A session's answers, byte by byte, from the first packet to its end. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryNode } from '../../test/harness/memory-node.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import { CLUSTER, START, made } from '../../test/harness/wal-walks.ts';
import { COPY_DONE } from '../protocol/backend-messages.ts';
import { message } from '../protocol/bytes.ts';
import { encodeCopyData, encodeQuery } from '../protocol/frontend-messages.ts';
import {
  encodeKeepalive,
  encodeStatusUpdate,
  encodeWalDataFrame,
} from '../protocol/replication-messages.ts';
import { encodeStartup } from '../protocol/startup.ts';
import { loadZstd } from '../protocol/zstd.ts';
import { INVALID_LSN, advance, formatLsn } from '../wal/lsn.ts';

const { wal: WAL } = made([{ bodyBytes: 500 }, { bodyBytes: 20_000 }]);
const END = advance(START, WAL.length);
const READY = '5a 00000005 49';

test('the greeting names what clients look at, and ends with a key and readiness', async () => {
  const { node, heard, say } = await startup({ application_name: 'walreceiver' });
  await say();
  const text = heard().toString('latin1');
  assert.equal(heard().subarray(0, 9).toString('hex'), '520000000800000000');
  for (const [name, value] of [
    ['application_name', 'walreceiver'],
    ['integer_datetimes', 'on'],
    ['server_version', '18.4'],
    ['in_hot_standby', 'on'],
    ['session_authorization', 'postgres'],
  ]) {
    assert.ok(text.includes(`${name}\0${value}\0`), name);
  }
  const key = heard().subarray(-6 - 13, -6);
  assert.equal(key.subarray(0, 5).toString('hex'), '4b0000000c');
  assert.deepEqual(heard().subarray(-6), hex(READY));
  await node.close();
});

test('who asks for compression is told what it gets, and nobody else hears of it', async () => {
  for (const [asked, told] of [
    [{ '_pq_.walcade_compression': 'zstd' }, 'walcade.compression\0zstd\0'],
    [{ '_pq_.walcade_compression': 'lz4' }, 'walcade.compression\0off\0'],
    [{}, undefined],
  ] as const) {
    const { node, heard, say } = await startup(asked);
    // The library is loaded for the first who asks.
    await loadZstd();
    await say();
    const text = heard().toString('latin1');
    // What is known needs no negotiation: the first message is AuthenticationOk.
    assert.equal(text[0], 'R');
    if (told === undefined) assert.ok(!text.includes('walcade.compression'));
    else assert.ok(text.includes(told));
    await node.close();
  }
});

test('IDENTIFY_SYSTEM, SHOW and slots are answered to the byte', async () => {
  const { node, answer } = await session();
  const identity = [CLUSTER.toString(), '1', formatLsn(END)];
  assert.deepEqual(
    await answer('IDENTIFY_SYSTEM'),
    Buffer.concat([
      message(
        'T',
        hex('0004'),
        column('systemid', '00000019 ffff'),
        column('timeline', '00000014 0008'),
        column('xlogpos', '00000019 ffff'),
        column('dbname', '00000019 ffff'),
      ),
      message('D', hex('0004'), ...identity.map(value), hex('ffffffff')),
      tag('IDENTIFY_SYSTEM'),
      hex(READY),
    ]),
  );
  assert.deepEqual(
    await answer('SHOW wal_segment_size'),
    Buffer.concat([
      message('T', hex('0001'), column('wal_segment_size', '00000019 ffff')),
      message('D', hex('0001'), value('1MB')),
      tag('SHOW'),
      hex(READY),
    ]),
  );
  const created = await answer('CREATE_REPLICATION_SLOT kept PHYSICAL RESERVE_WAL');
  assert.deepEqual(
    created.subarray(-(6 + 29 + 26)),
    Buffer.concat([
      message('D', hex('0004'), value('kept'), value('0/0'), hex('ffffffff ffffffff')).subarray(
        -26,
      ),
      tag('CREATE_REPLICATION_SLOT'),
      hex(READY),
    ]),
  );
  assert.equal(node.context.slots.get('kept').restartLsn, START);
  const dropped = await answer('DROP_REPLICATION_SLOT kept');
  assert.deepEqual(dropped, Buffer.concat([tag('DROP_REPLICATION_SLOT'), hex(READY)]));
  await node.close();
});

test('an error has its fields, ends temporary slots, and the session goes on', async () => {
  const { node, answer } = await session();
  await answer('CREATE_REPLICATION_SLOT gone TEMPORARY PHYSICAL');
  assert.equal(node.context.slots.all().length, 1);
  const text = 'cannot execute SQL commands in WAL sender for physical replication';
  assert.deepEqual(
    await answer('SELECT 1'),
    Buffer.concat([message('E', Buffer.from(`SERROR\0VERROR\0C0A000\0M${text}\0\0`)), hex(READY)]),
  );
  assert.equal(node.context.slots.all().length, 0);
  await node.close();
});

test('a session drops its own temporary slot, and does not wait for itself', async () => {
  const { node, answer } = await session();
  for (const drop of ['DROP_REPLICATION_SLOT own', 'DROP_REPLICATION_SLOT own WAIT']) {
    await answer('CREATE_REPLICATION_SLOT own TEMPORARY PHYSICAL');
    assert.deepEqual(await answer(drop), Buffer.concat([tag('DROP_REPLICATION_SLOT'), hex(READY)]));
  }
  await node.close();
});

test('a stream is CopyBoth, WAL, keepalives on request, and two completions', async () => {
  const { node, answer, say, heard } = await session();
  assert.deepEqual(
    await answer(`START_REPLICATION ${formatLsn(START)} TIMELINE 1`),
    Buffer.concat([
      hex('57 00000007 00 0000'),
      encodeWalDataFrame({ start: START, walEnd: END, sentAt: 0n }, WAL.length),
      WAL,
    ]),
  );
  const positions = { write: END, flush: END, apply: INVALID_LSN };
  heard();
  await say(encodeStatusUpdate({ ...positions, sentAt: 1n, replyRequested: true }));
  assert.deepEqual(heard(), encodeKeepalive({ walEnd: END, sentAt: 0n, replyRequested: false }));
  const [downstream] = node.context.downstreams.all();
  assert.deepEqual([downstream?.state, downstream?.flush], ['streaming', END]);
  await say(COPY_DONE);
  assert.deepEqual(
    heard(),
    Buffer.concat([COPY_DONE, tag('START_STREAMING'), tag('START_REPLICATION'), hex(READY)]),
  );
  assert.equal(node.context.downstreams.all()[0]?.state, 'startup');
  await node.close();
});

test('a node that stops ends a stream by COPY 0 once all is acknowledged', async () => {
  const { node, answer, say, heard, socket } = await session();
  await answer(`START_REPLICATION ${formatLsn(START)}`);
  heard();
  const stopped = node.door.stop();
  await settle();
  assert.deepEqual(heard(), encodeKeepalive({ walEnd: END, sentAt: 0n, replyRequested: true }));
  const half = { write: END, flush: START, apply: INVALID_LSN };
  await say(encodeStatusUpdate({ ...half, sentAt: 1n, replyRequested: false }));
  assert.equal(heard().length, 0);
  await say(encodeStatusUpdate({ ...half, flush: END, sentAt: 1n, replyRequested: false }));
  assert.deepEqual(heard(), tag('COPY 0'));
  await stopped;
  assert.equal(socket.readableEnded, true);
  await node.close();
});

test('a node that stops tells why, to an idle session and one that ended its copy', async () => {
  const goodbye = 'terminating connection due to administrator command';
  const fatal = message('E', Buffer.from(`SFATAL\0VFATAL\0C57P01\0M${goodbye}\0\0`));
  const idle = await session();
  const stopped = idle.node.door.stop();
  await settle();
  assert.deepEqual(idle.heard(), fatal);
  await stopped;
  await idle.node.close();

  const ending = await session();
  await ending.answer(`START_REPLICATION ${formatLsn(START)}`);
  ending.heard();
  const stopping = ending.node.door.stop();
  await ending.say(COPY_DONE);
  assert.deepEqual(ending.heard().subarray(-fatal.length), fatal);
  await stopping;
  await ending.node.close();
});

test('what is left of a copy, flush and sync are no commands', async () => {
  const { node, say, heard } = await session();
  await say(encodeCopyData(Buffer.from('x')), COPY_DONE, message('H'));
  assert.equal(heard().length, 0);
  await say(message('S'));
  assert.deepEqual(heard(), hex(READY));
  await node.close();
});

test('a node that was promoted says so once, where a command ends', async () => {
  const { node, say, heard, answer } = await session();
  node.context.isInRecovery = () => false;
  const off = message('S', Buffer.from('in_hot_standby\0off\0'));
  for (const told of [off, Buffer.alloc(0)]) {
    await answer(`START_REPLICATION ${formatLsn(END)}`);
    await say(message('c'));
    const ended = heard();
    const last = Buffer.concat([tag('START_REPLICATION'), told, hex(READY)]);
    assert.deepEqual(ended.subarray(-last.length), last);
  }
  await node.close();
});

async function startup(parameters: Record<string, string> = {}) {
  const node = await MemoryNode.open(WAL);
  const socket = node.connect();
  let bytes = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
  });
  socket.write(encodeStartup({ user: 'postgres', replication: 'true', ...parameters }));
  const say = async (...messages: Buffer[]): Promise<void> => {
    for (const each of messages) socket.write(each);
    await settle();
  };
  /** What has come since the last look; in the greeting, all of it. */
  const heard = (): Buffer => bytes;
  const forget = (): void => {
    bytes = Buffer.alloc(0);
  };
  return { node, socket, say, heard, forget };
}

async function session() {
  const { node, socket, say, heard, forget } = await startup();
  await say();
  forget();
  const take = (): Buffer => {
    const bytes = heard();
    forget();
    return bytes;
  };
  const answer = async (command: string): Promise<Buffer> => {
    await say(encodeQuery(command));
    return take();
  };
  return { node, socket, say, heard: take, answer };
}

function hex(text: string): Buffer {
  return Buffer.from(text.replaceAll(' ', ''), 'hex');
}

function tag(text: string): Buffer {
  return message('C', Buffer.from(`${text}\0`));
}

function value(text: string): Buffer {
  const bytes = Buffer.from(text);
  const length = Buffer.alloc(4);
  length.writeInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}

/** A column of no table: `type` is its OID and size. */
function column(name: string, type: string): Buffer {
  return Buffer.concat([
    Buffer.from(`${name}\0`),
    hex('00000000 0000'),
    hex(type),
    hex('ffffffff 0000'),
  ]);
}
