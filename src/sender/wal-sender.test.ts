/** One START_REPLICATION in trouble: an upstream that goes, a downstream that does not read. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { settle } from '../../test/harness/manual-clock.ts';
import { MemoryNode } from '../../test/harness/memory-node.ts';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { START, made } from '../../test/harness/wal-walks.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  COPY_DONE,
  encodeCopyBothResponse,
  encodeParameterStatus,
} from '../protocol/backend-messages.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { encodeQuery } from '../protocol/frontend-messages.ts';
import { UPSTREAM_PATH } from '../protocol/node-parameters.ts';
import { encodeKeepalive, encodeStatusUpdate } from '../protocol/replication-messages.ts';
import { encodeStartup } from '../protocol/startup.ts';
import { INVALID_LSN, type Lsn, advance, formatLsn } from '../wal/lsn.ts';

const { wal: WAL } = made([{ bodyBytes: 500 }, { bodyBytes: 300_000 }]);
const END = advance(START, WAL.length);
const NOWHERE = { write: INVALID_LSN, flush: INVALID_LSN, apply: INVALID_LSN, sentAt: 0n };
const LOST = /SERROR\0.*C08006\0Mconnection to upstream was lost while passing on WAL\0/s;
const TERMINATED = 'terminating connection due to administrator command';

test('an upstream that is lost while its WAL is passed on ends the command alone', async () => {
  // The downstream was dropped without a word, or with the FATAL that was meant for the node.
  const failures: ((upstream: MemoryUpstream) => Promise<void>)[] = [
    async (upstream) => {
      upstream.hangUp();
      await settle();
    },
    ...[SQLSTATE.ADMIN_SHUTDOWN, SQLSTATE.PROTOCOL_VIOLATION].map(
      (sqlstate) => async (upstream: MemoryUpstream) => {
        const error = new WalcadeError(sqlstate, TERMINATED);
        await upstream.say(encodeErrorResponse(error, 'FATAL'));
      },
    ),
    (upstream) => upstream.say(Buffer.from('no message of the protocol')),
  ];
  for (const fail of failures) {
    const { node, upstream, take, answer } = await passingOn();
    await fail(upstream);
    assert.match(take(), LOST);
    assert.match(await answer('IDENTIFY_SYSTEM'), /IDENTIFY_SYSTEM\0Z/);
    await node.close();
  }
});

test('an upstream that is silent while its WAL is passed on is left at the timeout', async () => {
  const { node, take, say, pass } = await passingOn();
  for (let second = 0; second < 61; second++) {
    await pass(1_000);
    await say(encodeStatusUpdate({ ...NOWHERE, replyRequested: false }));
  }
  assert.match(take(), LOST);
  assert.equal(node.context.downstreams.size, 1);
  await node.close();
});

test('what the upstream answers about the WAL is the answer', async () => {
  const { node, upstream, take, answer } = await passingOn();
  const gone = 'requested WAL segment 000000010000000000000000 has already been removed';
  const refusal = new WalcadeError(SQLSTATE.UNDEFINED_FILE, gone);
  await upstream.say(encodeErrorResponse(refusal, 'ERROR'));
  assert.ok(take().includes(`C58P01\0M${gone}\0`));
  assert.match(await answer('IDENTIFY_SYSTEM'), /IDENTIFY_SYSTEM\0Z/);
  await node.close();
});

test('a command that comes with the end of the one before is answered', async () => {
  // The ended stream went on listening, and took what was said to the session.
  const { node, socket, upstream, take } = await passingOn();
  socket.once('data', () => {
    const left = encodeStatusUpdate({ ...NOWHERE, replyRequested: false });
    socket.write(Buffer.concat([left, encodeQuery('IDENTIFY_SYSTEM')]));
  });
  const refusal = new WalcadeError(SQLSTATE.UNDEFINED_FILE, 'gone');
  await upstream.say(encodeErrorResponse(refusal, 'ERROR'));
  await settle();
  assert.match(take(), /Mgone\0.*IDENTIFY_SYSTEM\0Z/s);
  await node.close();
});

test('a downstream that waits for older WAL is in catchup', async () => {
  const { node } = await passingOn();
  assert.equal(node.context.downstreams.all()[0]?.state, 'catchup');
  await node.close();
});

test('a downstream that ends the copy and then stops reading is ended', async () => {
  const { node, socket, say } = await session();
  await say(encodeQuery('CREATE_REPLICATION_SLOT s PHYSICAL'));
  socket.pause();
  await say(encodeQuery(`START_REPLICATION SLOT s ${formatLsn(START)}`), COPY_DONE);
  assert.notEqual(node.context.slots.get('s').activePid, undefined);
  await node.clock.pass(61_000);
  assert.equal(node.context.downstreams.size, 0);
  assert.equal(node.context.slots.get('s').activePid, undefined);
  await node.close();
});

test('keepalives do not claim WAL that is not here, though a later start was asked', async () => {
  const { node, take, say } = await session();
  const ahead = advance(END, 8_192);
  await say(encodeQuery(`START_REPLICATION ${formatLsn(ahead)}`));
  take();
  await say(encodeStatusUpdate({ ...NOWHERE, replyRequested: true }));
  const keepalive = encodeKeepalive({ walEnd: END, sentAt: 0n, replyRequested: false });
  assert.equal(take(), keepalive.toString('latin1'));
  await node.close();
});

test('a node that stops asks again until all is confirmed, once a second', async () => {
  // A receiver that reports only when it is asked confirmed its writes, and was not asked again.
  const { node, take, say } = await session();
  await say(encodeQuery(`START_REPLICATION ${formatLsn(START)}`));
  take();
  const asking = (sentAt: bigint): string =>
    encodeKeepalive({ walEnd: END, sentAt, replyRequested: true }).toString('latin1');
  const confirm = (flush: Lsn): Promise<void> =>
    say(encodeStatusUpdate({ ...NOWHERE, write: END, flush, replyRequested: false }));
  const stopped = node.door.stop();
  await settle();
  assert.equal(take(), asking(0n));
  await confirm(START);
  await node.clock.pass(999);
  assert.equal(take(), '');
  await node.clock.pass(1);
  assert.equal(take(), asking(1_000_000n));
  await confirm(END);
  assert.match(take(), /COPY 0\0$/);
  await stopped;
  await node.close();
});

// A node streamed on and did not see that the one above it had come to follow another.
test('a node is told which nodes are above, and when that changes; nobody else is', async () => {
  for (const isNode of [true, false]) {
    const { node, say, take } = await session(isNode ? { [UPSTREAM_PATH]: '' } : {});
    const told = (path: string): string =>
      isNode ? encodeParameterStatus(UPSTREAM_PATH, path).toString('latin1') : '';
    const change = async (...path: string[]): Promise<void> => {
      node.upstreamPath = path;
      node.pathChanged.notify();
      await settle();
    };
    node.upstreamPath = ['b'];
    await say(encodeQuery(`START_REPLICATION ${formatLsn(END)}`));
    assert.equal(take(), encodeCopyBothResponse().toString('latin1') + told('b'));
    await change('b', 'c');
    assert.equal(take(), told('b,c'));
    await change('b', 'c');
    assert.equal(take(), '');
    await change();
    assert.equal(take(), told(''));
    await say(COPY_DONE);
    take();
    await change('d');
    assert.equal(take(), '');
    await node.close();
  }
});

async function session(parameters: Record<string, string> = {}) {
  const node = await MemoryNode.open(WAL);
  const socket = node.connect();
  let heard = '';
  socket.on('data', (chunk: Buffer) => {
    heard += chunk.toString('latin1');
  });
  const say = async (...messages: Buffer[]): Promise<void> => {
    for (const each of messages) socket.write(each);
    await settle();
  };
  /** What has come since the last look, a character a byte. */
  const take = (): string => {
    const text = heard;
    heard = '';
    return text;
  };
  const answer = async (command: string): Promise<string> => {
    await say(encodeQuery(command));
    return take();
  };
  await say(encodeStartup({ user: 'postgres', replication: 'true', ...parameters }));
  take();
  return { node, socket, say, take, answer };
}

/** A session that is being passed WAL from before the store's beginning. */
async function passingOn() {
  const { node, socket, say, take, answer } = await session();
  const upstream = new MemoryUpstream();
  node.connectUpstream = (signal) => upstream.connect({ signal });
  await say(encodeQuery('START_REPLICATION 0/0'));
  await settle();
  await upstream.say(encodeCopyBothResponse());
  take();
  const pass = (ms: number): Promise<void> => node.clock.pass(ms);
  return { node, socket, upstream, say, take, answer, pass };
}
