/**
 * A downstream that reads slowly, or nothing at all, is its own trouble: others keep up, the
 * relay's memory stays bounded, and wal_sender_timeout ends who gives no sign of life.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { decodeWalDataHeader } from '../../src/protocol/replication-messages.ts';
import { advance, parseLsn } from '../../src/wal/lsn.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { RawSession } from '../harness/raw-session.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const MEGABYTE = 1024 * 1024;
const GROWTH_BYTES_MAX = 30 * MEGABYTE;

test('a downstream that stops reading stops only its own stream, in bounded memory', async (t) => {
  const { tree, primary, relay, standby } = await relayWithStandby(t, {
    wal_sender_timeout: '1min',
    wal_keep_size: '64MB',
  });
  // One flow first, so that all buffers there are have been made.
  await writeMegabytes(primary, 40);
  await standby.waitForCatchup(primary);

  // Three that begin and then read nothing, one of them far behind.
  const { served, oldest } = (await relay.status()).positions;
  for (const start of [served, served, oldest]) {
    const stuck = await RawSession.start(tree, relay.port, { application_name: 'stuck' });
    assert.deepEqual(await stuck.answer(`START_REPLICATION ${start}`), ['W']);
    stuck.stopReading();
  }
  const before = await residentBytes(relay.pid);
  let most = before;
  const receiver = await standby.walReceiverPid();
  for (let megabytes = 0; megabytes < 300; megabytes += 20) {
    await writeMegabytes(primary, 20);
    most = Math.max(most, await residentBytes(relay.pid));
  }

  // The standby has everything, from the receiver it had; status shows who is behind.
  await standby.waitForCatchup(primary);
  most = Math.max(most, await residentBytes(relay.pid));
  assert.equal(await standby.walReceiverPid(), receiver);
  const { downstreams } = await relay.status();
  const stuck = downstreams.filter(({ applicationName }) => applicationName === 'stuck');
  assert.equal(stuck.length, 3);
  for (const { sent } of stuck) {
    assert.ok(parseLsn(sent ?? '') < advance(parseLsn(served), 32 * MEGABYTE), `sent ${sent}`);
  }
  const grown = most - before;
  t.diagnostic(
    `resident ${Math.round(most / MEGABYTE)} MB, grown ${Math.round(grown / MEGABYTE)} MB`,
  );
  assert.ok(grown < GROWTH_BYTES_MAX, `resident memory grew by ${grown} bytes`);

  // They are closed once wal_sender_timeout says so.
  await relay.configure({ wal_sender_timeout: '1s' });
  relay.reload();
  await waitForValue('the stuck ones to be gone', 'standby', async () =>
    (await relay.status()).downstreams.map(({ applicationName }) => applicationName).join(),
  );
  await relay.waitForLog(/\[stuck .*terminating WAL sender session due to replication timeout/);
  await primary.sql('INSERT INTO payload VALUES (NULL)');
  await standby.waitForCatchup(primary);
});

test('a downstream that reads slowly stays for as long as it answers', async (t) => {
  const timeoutMs = 2_000;
  const { tree, primary, relay } = await relayWithStandby(t, { wal_sender_timeout: '2s' });
  const session = await RawSession.start(tree, relay.port, { application_name: 'slow' });
  const { served } = (await relay.status()).positions;
  assert.deepEqual(await session.answer(`START_REPLICATION ${served}`), ['W']);
  session.stopReading();
  await writeMegabytes(primary, 60);
  await relay.waitForWal(await primary.currentLsn());

  // It takes nothing for several timeouts, and only says that it is there.
  let end = parseLsn(served);
  const startedMs = performance.now();
  while (performance.now() - startedMs < 3 * timeoutMs) {
    session.report(end);
    const { sent } = await slowDownstream(relay);
    assert.ok(parseLsn(sent ?? '') < (await primary.currentLsn()), 'it is behind all the time');
  }

  // Then it reads, and has all of it from this one connection.
  session.startReading();
  const goal = await primary.currentLsn();
  while (end < goal) {
    const message = await session.next();
    assert.ok(message !== undefined, 'the session goes on');
    if (message.type !== 'd' || message.body[0] !== 0x77) continue;
    assert.equal(decodeWalDataHeader(message.body).start, end);
    end = advance(end, message.body.length - 25);
    session.report(end);
  }
  await waitForValue('the slow one to be streaming', 'streaming', async () => {
    return (await slowDownstream(relay)).state;
  });
});

async function slowDownstream(relay: WalcadeNode) {
  const { downstreams } = await relay.status();
  const found = downstreams.find(({ applicationName }) => applicationName === 'slow');
  assert.ok(found !== undefined, 'the slow downstream is connected');
  return found;
}

async function relayWithStandby(t: TestContext, settings: Record<string, string>) {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE payload (value text)');
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    settings,
  });
  await relay.start();
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: relay.conninfo,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  return { tree, primary, relay, standby };
}

/** WAL of about so many megabytes, which costs neither end much to write or replay. */
async function writeMegabytes(primary: PostgresCluster, megabytes: number): Promise<void> {
  await primary.sql(
    `SELECT pg_logical_emit_message(false, 'payload', repeat('x', ${MEGABYTE}))
       FROM generate_series(1, ${megabytes})`,
  );
  await primary.sql('INSERT INTO payload VALUES (NULL)');
}

async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}
