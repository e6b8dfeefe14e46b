/**
 * How a node answers its clients: as PostgreSQL does, which is proven by saying the same to both,
 * and in plain words where a relay has no such answer. Nothing that a client says ends the process
 * or is felt by another client.
 */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { decodeBackendKeyData } from '../../src/protocol/backend-messages.ts';
import { message } from '../../src/protocol/bytes.ts';
import { encodeCopyData, encodeQuery } from '../../src/protocol/frontend-messages.ts';
import { decodeWalDataHeader } from '../../src/protocol/replication-messages.ts';
import {
  encodeCancelRequest,
  encodeGssRequest,
  encodeSslRequest,
  encodeStartup,
} from '../../src/protocol/startup.ts';
import { advance, formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { RawSession, describeHeard } from '../harness/raw-session.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitForValue } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const USER = { user: 'postgres', replication: 'true' };
const COPY_DONE = message('c');
const SYNC = message('S');

test('commands are answered as PostgreSQL answers them, errors included', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t);
  const asked = [
    await RawSession.start(tree, primary.port),
    await RawSession.start(tree, relay.port),
  ];
  const commands = [
    'IDENTIFY_SYSTEM',
    'IDENTIFY_SYSTEM;',
    ' \t\nIDENTIFY_SYSTEM ',
    'identify_system',
    'IDENTIFY_SYSTEM 1',
    'SELECT 1',
    '',
    ';',
    '-- a comment',
    'NOSUCH',
    'SHOW wal_segment_size',
    'SHOW "wal_segment_size"',
    'SHOW SERVER_VERSION',
    'SHOW nosuch',
    'SHOW no.such',
    'SHOW',
    'TIMELINE_HISTORY 1',
    'TIMELINE_HISTORY 7',
    'TIMELINE_HISTORY 0',
    'TIMELINE_HISTORY',
    'CREATE_REPLICATION_SLOT made PHYSICAL',
    'CREATE_REPLICATION_SLOT made PHYSICAL',
    'READ_REPLICATION_SLOT made',
    'READ_REPLICATION_SLOT "made"',
    'READ_REPLICATION_SLOT nosuch',
    'ALTER_REPLICATION_SLOT made (FAILOVER)',
    'ALTER_REPLICATION_SLOT nosuch (FAILOVER)',
    'DROP_REPLICATION_SLOT made',
    'DROP_REPLICATION_SLOT made',
    'DROP_REPLICATION_SLOT made WAIT',
    'CREATE_REPLICATION_SLOT "Not This" PHYSICAL',
    'CREATE_REPLICATION_SLOT made PHYSICAL ()',
    'CREATE_REPLICATION_SLOT made PHYSICAL (nosuch)',
    'CREATE_REPLICATION_SLOT made TEMPORARY PHYSICAL (RESERVE_WAL false)',
    'READ_REPLICATION_SLOT made',
    'DROP_REPLICATION_SLOT nosuch',
    'READ_REPLICATION_SLOT made',
    'START_REPLICATION',
    'START_REPLICATION PHYSICAL',
    'START_REPLICATION 0/3000000/1',
    'START_REPLICATION X/X',
    'START_REPLICATION 0/3000000 TIMELINE 0',
    'START_REPLICATION 0/3000000 TIMELINE 9',
    'START_REPLICATION SLOT nosuch PHYSICAL 0/3000000',
    'START_REPLICATION SLOT "nosuch" 0/3000000 TIMELINE 1',
  ];
  const answers: Record<string, string[]>[] = [{}, {}];
  for (const [index, command] of commands.entries()) {
    for (const [side, session] of asked.entries()) {
      (answers[side] ?? {})[`${index}: ${command}`] = await session.answer(command);
    }
  }
  assert.deepEqual(answers[1], answers[0]);
});

test('messages out of place are answered as PostgreSQL answers them', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t);
  const query = encodeQuery('IDENTIFY_SYSTEM');
  const parse = message('P', Buffer.from('\0SELECT 1\0\0\0'));
  const conversations: Record<string, Buffer[]> = {
    'parse, and all up to sync is skipped': [parse, message('H'), query, SYNC, query],
    'bind, describe, execute': [
      message('B', Buffer.alloc(8)),
      message('D', Buffer.from('S\0')),
      message('E', Buffer.alloc(5)),
      SYNC,
    ],
    close: [message('C', Buffer.from('S\0')), SYNC],
    'sync alone': [SYNC],
    'flush alone': [message('H'), query],
    'a function call': [message('F', Buffer.alloc(10))],
    'what is left of a copy': [
      encodeQuery('START_REPLICATION SLOT nosuch 0/3000000'),
      encodeCopyData(Buffer.from('r')),
      encodeCopyData(Buffer.alloc(0)),
      COPY_DONE,
      message('f', Buffer.from('no more\0')),
      query,
    ],
    'a password nobody asked for': [message('p', Buffer.from('secret\0'))],
    'a type that does not exist': [message('~')],
  };
  for (const [name, messages] of Object.entries(conversations)) {
    const heard = await Promise.all(
      [primary.port, relay.port].map(async (port) => {
        const session = await RawSession.start(tree, port);
        for (const each of messages) session.write(each);
        session.finish();
        return (await session.until()).map(describeHeard);
      }),
    );
    assert.deepEqual(heard[1], heard[0], name);
    assert.ok((heard[1]?.length ?? 0) > 0, name);
  }
});

test('first packets of every kind are let in or refused, each in its way', async (t) => {
  const { tree, relay } = await primaryAndRelay(t);
  const first = async (...packets: Uint8Array[]): Promise<string> => {
    const session = await RawSession.open(tree, relay.port);
    for (const packet of packets) session.write(packet);
    const heard = await session.next();
    await session.end();
    return heard === undefined ? 'closed' : describeHeard(heard);
  };

  // Every spelling of replication that PostgreSQL takes.
  for (const value of 'true on yes 1 t tr TRUE y ye ON'.split(' ')) {
    assert.equal(await first(encodeStartup({ ...USER, replication: value })), 'R', value);
  }
  const noDatabase = 'E FATAL 0A000 this node is a relay: it has WAL but no database';
  for (const value of 'false off no 0 f n of database'.split(' ')) {
    assert.equal(await first(encodeStartup({ ...USER, replication: value })), noDatabase, value);
  }
  assert.equal(await first(encodeStartup({ user: 'postgres', database: 'x' })), noDatabase);
  for (const value of ['bogus', 'o', '', '2', 'Database', ' true']) {
    assert.equal(
      await first(encodeStartup({ ...USER, replication: value })),
      `E FATAL 22023 invalid value for parameter "replication": "${value}"`,
    );
  }

  // What a relay has no use for is taken all the same.
  const settings = { options: '-c nosuch=1 --x', nosuch: 'x', client_encoding: 'LATIN1' };
  assert.equal(await first(encodeStartup({ ...USER, ...settings })), 'R');

  // Encryption is refused by one byte, once each, and the startup follows.
  const session = await RawSession.open(tree, relay.port);
  session.write(encodeSslRequest());
  assert.equal((await session.unframed(1)).toString(), 'N');
  session.write(encodeGssRequest());
  assert.equal((await session.unframed(1)).toString(), 'N');
  session.write(encodeStartup(USER));
  assert.equal((await session.until('Z')).at(-1)?.type, 'Z');
  const twice = await RawSession.open(tree, relay.port);
  twice.write(Buffer.concat([encodeSslRequest(), encodeSslRequest()]));
  assert.equal((await twice.unframed(1)).toString(), 'N');
  assert.match(describeHeard((await twice.next()) ?? assert.fail()), /^E FATAL 08P01 encryption/);

  // Newer minor versions and extensions are negotiated down to 3.0, byte by byte as 17 does it.
  for (const [version, extension, expected] of [
    [0x0003_0002, {}, '76 0000000c 00030000 00000000'],
    [0x0003_270f, {}, '76 0000000c 00030000 00000000'],
    [0x0003_0000, { '_pq_.a': '1' }, '76 00000013 00030000 00000001 5f70715f2e6100'],
  ] as const) {
    const newer = await RawSession.open(tree, relay.port);
    newer.write(encodeStartup({ ...USER, ...extension }, version));
    const bytes = Buffer.from(expected.replaceAll(' ', ''), 'hex');
    assert.deepEqual(await newer.unframed(bytes.length), bytes);
    assert.equal((await newer.until('Z')).at(-1)?.type, 'Z');
  }

  // Other protocols, and what is none.
  assert.match(await first(encodeStartup(USER, 0x0002_0000)), /^E FATAL 0A000 .* protocol 2\.0/);
  assert.match(await first(encodeStartup(USER, 0x0004_0000)), /^E FATAL 0A000 .* protocol 4\.0/);
  assert.match(await first(encodeStartup({ replication: 'true' })), /^E FATAL 28000 /);
  for (const garbage of [
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    Buffer.from('\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'),
    Buffer.alloc(8),
    Buffer.from('0000271100030000', 'hex'),
    Buffer.from('ffffffff00030000', 'hex'),
    Buffer.from('0000000900030000ff', 'hex'),
  ]) {
    assert.match(await first(garbage), /^E FATAL 08P01 /, garbage.toString('hex'));
  }
  assert.equal(await first(encodeCancelRequest(1, Buffer.alloc(4))), 'closed');

  // After the startup: a message that is too long ends the session, unread and, as in PostgreSQL,
  // unanswered.
  const long = await RawSession.start(tree, relay.port);
  long.write(Buffer.from('517fffffff', 'hex'));
  assert.deepEqual(await long.until(), []);
  await relay.waitForLog(/invalid message length 2147483647/);
});

test('a stream begins ahead of what there is, ends on request, the session goes on', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t);

  // Ahead of all that the relay has: CopyBoth at once, WAL when it has come.
  const session = await RawSession.start(tree, relay.port);
  const start = advance(await primary.currentLsn(), 64);
  assert.deepEqual(await session.answer(`START_REPLICATION ${formatLsn(start)}`), ['W']);
  session.report(start, { replyRequested: true });
  assert.equal(describeHeard((await session.next()) ?? assert.fail()), 'd k');
  await primary.sql(`CREATE TABLE ahead AS SELECT generate_series(1, 1000)`);
  const wal = (await session.next()) ?? assert.fail();
  assert.equal(describeHeard(wal), 'd w');
  assert.equal(decodeWalDataHeader(wal.body).start, start);

  // The downstream ends the copy; more WAL may come before the relay's own CopyDone.
  session.write(COPY_DONE);
  const ending = (await session.until('Z')).map(describeHeard);
  assert.deepEqual(
    ending.filter((line) => line !== 'd w' && line !== 'd k'),
    ['c', 'C START_STREAMING', 'C START_REPLICATION', 'Z I'],
  );
  assert.equal((await session.answer('IDENTIFY_SYSTEM')).at(-1), 'Z I');

  // And once more, from a position that is there.
  assert.deepEqual(await session.answer(`START_REPLICATION ${formatLsn(start)} TIMELINE 1`), ['W']);
  assert.equal(describeHeard((await session.next()) ?? assert.fail()), 'd w');

  // What is no standby's message ends the session.
  session.write(encodeCopyData(Buffer.from('?')));
  const last = (await session.until()).map(describeHeard).at(-1);
  assert.equal(last, 'E FATAL 08P01 unexpected message type "?"');
});

test('a base backup is refused for other targets, and a cancel request ends one', async (t) => {
  const { tree, primary, relay } = await primaryAndRelay(t);
  const session = await RawSession.start(tree, relay.port);
  const hasTargets = primary.binaries.major >= 15;
  for (const target of hasTargets ? ['server', 'blackhole', 'nowhere'] : []) {
    assert.deepEqual(await session.answer(`BASE_BACKUP (TARGET '${target}', TARGET_DETAIL '/x')`), [
      `E ERROR 0A000 backup target "${target}" is not supported by a relay`,
      'Z I',
    ]);
  }

  // At 32 kB/s a backup would take minutes; it is cancelled as soon as its data flows.
  session.query(
    `BASE_BACKUP ${hasTargets ? `(CHECKPOINT 'fast', MAX_RATE 32)` : 'FAST MAX_RATE 32'}`,
  );
  const before = await session.until('d');
  assert.equal(before.at(-1)?.type, 'd');
  const keyData = session.greeting.find(({ type }) => type === 'K') ?? assert.fail();
  const { processId, key } = decodeBackendKeyData(keyData.body);
  const wrong = await RawSession.open(tree, relay.port);
  wrong.write(encodeCancelRequest(processId, Buffer.alloc(4)));
  await wrong.waitForEnd();
  const right = await RawSession.open(tree, relay.port);
  right.write(encodeCancelRequest(processId, key));
  await right.waitForEnd();
  const rest = (await session.until('Z'))
    .map(describeHeard)
    .filter((line) => !line.startsWith('d'));
  assert.deepEqual(rest, ['E ERROR 57014 canceling statement due to user request', 'Z I']);
  assert.equal((await session.answer('IDENTIFY_SYSTEM')).at(-1), 'Z I');
});

test('a slot that is in use is dropped when its session has ended, if asked to wait', async (t) => {
  const { tree, relay } = await primaryAndRelay(t);
  const user = await RawSession.start(tree, relay.port);
  await user.answer('CREATE_REPLICATION_SLOT kept PHYSICAL RESERVE_WAL');
  const { served } = (await relay.status()).positions;
  assert.deepEqual(await user.answer(`START_REPLICATION SLOT kept ${served}`), ['W']);
  const other = await RawSession.start(tree, relay.port);
  const inUse = /^E ERROR 55006 replication slot "kept" is active for PID \d+$/;
  assert.match((await other.answer('DROP_REPLICATION_SLOT kept'))[0] ?? '', inUse);
  const [refusal] = await other.answer(`START_REPLICATION SLOT kept ${served}`);
  assert.match(refusal ?? '', inUse);

  // It waits; the other session is answered meanwhile, and the end of it ends the wait.
  other.query('DROP_REPLICATION_SLOT kept WAIT');
  user.report(parseLsn(served), { replyRequested: true });
  assert.equal(describeHeard((await user.next()) ?? assert.fail()), 'd k');
  assert.equal((await relay.status()).slots.length, 1);
  await user.end();
  assert.deepEqual((await other.until('Z')).map(describeHeard), ['C DROP_REPLICATION_SLOT', 'Z I']);
  assert.deepEqual((await relay.status()).slots, []);
});

test('who is too many, too slow or not allowed is told so, and others go on', async (t) => {
  const { tree, relay } = await primaryAndRelay(t, {
    max_wal_senders: 2,
    authentication_timeout: '1s',
  });
  const first = await RawSession.start(tree, relay.port);
  await RawSession.start(tree, relay.port);
  const refusedWith = async (parameters: Record<string, string> = {}): Promise<string> => {
    const session = await RawSession.open(tree, relay.port);
    session.write(encodeStartup({ ...USER, ...parameters }));
    return describeHeard((await session.next()) ?? assert.fail());
  };
  assert.equal(
    await refusedWith(),
    'E FATAL 53300 number of requested standby connections exceeds "max_wal_senders" (currently 2)',
  );

  // A place is free when a session has ended.
  await first.end();
  await waitForValue('a free place', 1, async () => (await relay.status()).downstreams.length);
  const third = await RawSession.start(tree, relay.port);

  // Who says nothing, or not enough, is sent away after a second; who is in may stay.
  const silent = await RawSession.open(tree, relay.port);
  const slow = await RawSession.open(tree, relay.port);
  slow.write(encodeStartup(USER).subarray(0, 20));
  await Promise.all([silent.waitForEnd(), slow.waitForEnd()]);
  assert.equal((await third.answer('IDENTIFY_SYSTEM')).at(-1), 'Z I');

  // Rules are read at a reload; the first that matches decides.
  const file = join(relay.directory, 'walcade_hba.conf');
  const rules = ['local all all trust', 'host replication eve 127.0.0.1/32 reject'];
  await writeFile(file, `${rules.join('\n')}\nhost all all 127.0.0.1/32 trust\n`);
  await third.end();
  const mark = await relay.log.mark();
  relay.reload();
  await relay.waitForLog(/configuration files were read again/, { since: mark });
  assert.equal(
    await refusedWith({ user: 'eve' }),
    'E FATAL 28000 walcade_hba.conf rejects replication connection for host "127.0.0.1", ' +
      'user "eve", no encryption',
  );
  assert.equal(
    await refusedWith(),
    'E FATAL 28000 no walcade_hba.conf entry for replication connection from host "127.0.0.1", ' +
      'user "postgres", no encryption',
  );
});

/** A primary, and a relay that has all of its WAL. */
async function primaryAndRelay(
  t: TestContext,
  settings: Record<string, string | number> = {},
): Promise<{ tree: TestDirectory; primary: PostgresCluster; relay: WalcadeNode }> {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  const relay = await WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    settings,
  });
  await relay.start();
  await relay.waitForWal(await primary.currentLsn());
  return { tree, primary, relay };
}
