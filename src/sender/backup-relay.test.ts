/** What a relay passes up to its upstream for a base backup, and what it keeps to itself. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryNode } from '../../test/harness/memory-node.ts';
import { MemoryUpstream } from '../../test/harness/memory-upstream.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import { made } from '../../test/harness/wal-walks.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import {
  COPY_DONE,
  encodeCopyInResponse,
  encodeReadyForQuery,
} from '../protocol/backend-messages.ts';
import { message } from '../protocol/bytes.ts';
import { encodeErrorResponse } from '../protocol/error-response.ts';
import { encodeCopyData, encodeQuery } from '../protocol/frontend-messages.ts';
import { encodeStartup } from '../protocol/startup.ts';

test('a manifest is passed up to its end, with the flushes between left out', async () => {
  const { upstream, say } = await uploading();
  const part = encodeCopyData(Buffer.from('{"PostgreSQL-Backup-Manifest-Version": 2'));
  await say(part, message('H'), message('S'), COPY_DONE);
  assert.deepEqual(upstream.heard(), Buffer.concat([part, COPY_DONE]));
});

// Passed on as they came, commands ran on the upstream with the rights of the node's role.
test('a command in place of a manifest ends the session, not passed on', async () => {
  const { upstream, say, heard } = await uploading();
  await say(encodeCopyData(Buffer.from('no manifest')));
  upstream.heard();
  await say(encodeQuery('DROP_REPLICATION_SLOT of_somebody_else'));
  assert.doesNotMatch(upstream.heard().toString('latin1'), /DROP_REPLICATION_SLOT/);
  assert.match(heard().toString('latin1'), /FATAL.*C08P01.*unexpected message type 0x51/s);
});

// The stop waited for the whole of wal_sender_timeout.
test('a backup whose client takes nothing any more holds up a stop for seconds only', async () => {
  const node = await MemoryNode.open(made([{ bodyBytes: 500 }]).wal);
  const upstream = new MemoryUpstream();
  node.connectUpstream = () => upstream.connect();
  const socket = node.connect();
  socket.write(encodeStartup({ user: 'postgres', replication: 'true' }));
  await settle();
  socket.write(encodeQuery('BASE_BACKUP'));
  while (!upstream.heard().includes('BASE_BACKUP')) await settle();
  for (let part = 0; part < 10; part++) {
    await upstream.say(encodeCopyData(Buffer.alloc(50_000)));
  }
  let hasStopped = false;
  const stopped = node.door.stop().then(() => (hasStopped = true));
  await node.clock.pass(4_000);
  assert.ok(!hasStopped, 'it is given a while');
  await node.clock.pass(1_000);
  await stopped;
  assert.equal(node.context.downstreams.all().length, 0);
  await node.close();
});

// It was told as fatal to a session that goes on, and that without what to do.
test('an upstream that goes down ends a backup and no session, and says what to do', async () => {
  const node = await MemoryNode.open(made([{ bodyBytes: 500 }]).wal);
  const upstream = new MemoryUpstream();
  node.connectUpstream = () => upstream.connect();
  const socket = node.connect();
  let heard = '';
  socket.on('data', (chunk: Buffer) => (heard += chunk.toString('latin1')));
  socket.write(encodeStartup({ user: 'postgres', replication: 'true' }));
  await settle();
  socket.write(encodeQuery('BASE_BACKUP'));
  while (!upstream.heard().includes('BASE_BACKUP')) await settle();
  heard = '';
  const down = new WalcadeError(SQLSTATE.ADMIN_SHUTDOWN, 'the upstream goes down');
  await upstream.say(encodeErrorResponse(down, 'FATAL'));
  upstream.hangUp();
  await settle();
  assert.match(heard, /SERROR.*C08006.*lost during a base backup.*the upstream goes down\./s);
  assert.match(heard, /Take the backup again\./);
  assert.ok(heard.endsWith(encodeReadyForQuery().toString('latin1')));
  assert.doesNotMatch(heard, /FATAL/);
  await node.close();
});

/** A session in the middle of UPLOAD_MANIFEST, the upstream waiting for the manifest. */
async function uploading() {
  const node = await MemoryNode.open(made([{ bodyBytes: 500 }]).wal);
  const upstream = new MemoryUpstream();
  node.connectUpstream = () => upstream.connect();
  const socket = node.connect();
  let bytes = Buffer.alloc(0);
  socket.on('data', (chunk: Buffer) => {
    bytes = Buffer.concat([bytes, chunk]);
  });
  const say = async (...messages: Buffer[]): Promise<void> => {
    for (const each of messages) socket.write(each);
    await settle();
  };
  await say(encodeStartup({ user: 'postgres', replication: 'true' }));
  await say(encodeQuery('UPLOAD_MANIFEST'));
  // The upstream lets the relay in, and is asked for the manifest.
  while (!upstream.heard().includes('UPLOAD_MANIFEST')) await settle();
  await upstream.say(encodeCopyInResponse());
  upstream.heard();
  return { upstream, say, heard: () => bytes };
}
