/** An incremental base backup through a relay: its manifest goes up, and its blocks come down. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { ReplicationClient } from '../../src/protocol/client.ts';
import { COPY_DONE } from '../../src/protocol/backend-messages.ts';
import { encodeCopyData, encodeQuery } from '../../src/protocol/frontend-messages.ts';
import { BACKEND } from '../../src/protocol/message-type.ts';
import { testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { PrimaryPair } from '../harness/primary-pair.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { WalClient } from '../harness/wal-client.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const INCREMENTAL_SINCE = 17;
const MANIFEST_FOLLOWS = 0x6d;

test('a manifest is uploaded and an incremental backup taken, both through a relay', async (t) => {
  const isKnown = testedMajor() >= INCREMENTAL_SINCE;
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, {
    name: 'primary',
    settings: isKnown ? { summarize_wal: true } : {},
  });
  await primary.start();
  await primary.sql('CREATE TABLE filler AS SELECT i FROM generate_series(1, 100000) i');
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: primary.conninfo });
  await relay.start();
  const { client } = await WalClient.connect(tree, relay.conninfo);

  // Servers before 17 know no such command, and neither does a relay below them.
  if (!isKnown) {
    await assert.rejects(client.query('UPLOAD_MANIFEST'), { sqlstate: '0A000' });
    return;
  }

  // A full backup through the relay gives the manifest.
  const full = await backUp(client, "BASE_BACKUP (CHECKPOINT 'fast', MANIFEST 'yes')");
  assert.match(full.manifest.toString(), /"PostgreSQL-Backup-Manifest-Version": 2/);

  // It goes up in pieces, and the incremental backup after it uses it: same upstream connection.
  await primary.sql('UPDATE filler SET i = 0 WHERE i = 1');
  await upload(client, full.manifest);
  const incremental = await backUp(
    client,
    "BASE_BACKUP (INCREMENTAL, CHECKPOINT 'fast', MANIFEST 'no')",
  );
  assert.ok(incremental.archive.includes('INCREMENTAL.'), 'files hold changed blocks only');
  assert.ok(incremental.archive.length < full.archive.length / 2);
});

test('an incremental backup after a promotion builds on one before it', async (t) => {
  if (testedMajor() < INCREMENTAL_SINCE) return;
  const tree = await TestDirectory.create(t);
  const pair = await PrimaryPair.start(tree, { settings: { summarize_wal: 'on' } });
  await pair.primary.sql('CREATE TABLE filler AS SELECT i FROM generate_series(1, 100000) i');
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: pair.conninfo });
  await relay.start();
  const { client } = await WalClient.connect(tree, relay.conninfo);
  const full = await backUp(client, "BASE_BACKUP (CHECKPOINT 'fast', MANIFEST 'yes')");
  await pair.switchOver();
  await relay.waitForWal(await pair.primary.currentLsn());
  await upload(client, full.manifest);
  const incremental = await backUp(client, "BASE_BACKUP (INCREMENTAL, CHECKPOINT 'fast')");
  assert.ok(incremental.archive.includes('INCREMENTAL.'), 'files hold changed blocks only');
  assert.match(incremental.archive.toString('latin1'), /START TIMELINE: 2\nINCREMENTAL FROM LSN/);
});

/** Uploads a manifest in pieces. */
async function upload(client: ReplicationClient, manifest: Buffer): Promise<void> {
  await client.connection.send(encodeQuery('UPLOAD_MANIFEST'));
  assert.equal((await client.next()).type, BACKEND.COPY_IN_RESPONSE);
  for (let at = 0; at < manifest.length; at += 10_000) {
    await client.connection.send(encodeCopyData(manifest.subarray(at, at + 10_000)));
  }
  await client.connection.send(COPY_DONE);
  assert.deepEqual(
    (await client.results()).map(({ tag }) => tag),
    ['UPLOAD_MANIFEST'],
  );
}

/** Takes a backup of the base tablespace; gives its archive and its manifest, as they came. */
async function backUp(
  client: ReplicationClient,
  command: string,
): Promise<{ archive: Buffer; manifest: Buffer }> {
  const parts: { archive: Buffer[]; manifest: Buffer[] } = { archive: [], manifest: [] };
  let into = parts.archive;
  let isData = false;
  await client.connection.send(encodeQuery(command));
  for (;;) {
    const message = await client.next();
    const { type, body, offset } = message;
    if (type === BACKEND.ERROR_RESPONSE) {
      client.connection.unread([message]);
      await client.results();
    }
    if (type === BACKEND.READY_FOR_QUERY) break;
    if (type !== BACKEND.COPY_DATA) continue;
    if (offset === 0) {
      isData = body[0] === BACKEND.COPY_DATA;
      if (body[0] === MANIFEST_FOLLOWS) into = parts.manifest;
    }
    // What is kept outlives the buffer it was read into.
    if (isData) into.push(Buffer.from(offset === 0 ? body.subarray(1) : body));
  }
  return { archive: Buffer.concat(parts.archive), manifest: Buffer.concat(parts.manifest) };
}
