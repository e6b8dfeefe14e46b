/**
 * SQL through the front door, with a server that the test scripts: who is let in and what the
 * server is told of him, which CancelRequests reach it, and what happens while it is away.
 */
import assert from 'node:assert/strict';
import { type TestContext, test } from 'node:test';
import { duplexPair } from '../../test/harness/duplex-pair.ts';
import { settle } from '../../test/harness/manual-clock.ts';
import { MemoryNode, type MemoryNodeOptions } from '../../test/harness/memory-node.ts';
import { type Client, ScriptedServer, listen } from '../../test/harness/scripted-attached.ts';
import { made } from '../../test/harness/wal-walks.ts';
import { SQLSTATE, WalcadeError } from '../base/errors.ts';
import { parseHba } from '../config/hba.ts';
import {
  encodeAuthentication,
  encodeBackendKeyData,
  encodeReadyForQuery,
} from '../protocol/backend-messages.ts';
import { decodeErrorFields, encodeErrorResponse } from '../protocol/error-response.ts';
import { encodeQuery } from '../protocol/frontend-messages.ts';
import { encodeCancelRequest, encodeSslRequest, encodeStartup } from '../protocol/startup.ts';

const { wal: WAL } = made([{ bodyBytes: 500 }]);
const KEY = Buffer.from('32 bytes, as protocol 3.2 has it');
const GREETING = Buffer.concat([
  encodeAuthentication({ kind: 'ok' }),
  encodeBackendKeyData(4711, KEY),
  encodeReadyForQuery(),
]);

const startups: [what: string, asked: Record<string, string>, passed: Record<string, string>][] = [
  ['a user alone', { user: 'u' }, { user: 'u', database: 'u' }],
  ['an empty database', { user: 'u', database: '' }, { user: 'u', database: 'u' }],
  [
    'settings and options',
    { user: 'u', database: 'd', options: '-c a=b', client_encoding: 'UTF8', x: '' },
    { user: 'u', database: 'd', options: '-c a=b', client_encoding: 'UTF8', x: '' },
  ],
  [
    'replication=database',
    { user: 'u', replication: 'database', database: 'd' },
    { user: 'u', replication: 'database', database: 'd' },
  ],
  ['replication=off', { user: 'u', replication: 'off' }, { user: 'u', database: 'u' }],
  ['replication=No', { user: 'u', replication: 'No' }, { user: 'u', database: 'u' }],
  ['replication=0', { user: 'u', replication: '0' }, { user: 'u', database: 'u' }],
  [
    'names that are too long',
    { user: 'u'.repeat(70), database: 'd'.repeat(64) },
    { user: 'u'.repeat(63), database: 'd'.repeat(63) },
  ],
];

for (const [what, asked, passed] of startups) {
  test(`a startup with ${what} reaches the server as it was understood`, async (t) => {
    const { server, say } = await begin(t);
    await say(encodeStartup(asked));
    assert.deepEqual(server.heard(0), encodeStartup(passed));
  });
}

test('the last value of a name is judged and passed on, the other is not', async (t) => {
  const { server, say } = await begin(t, { rules: 'host good good all trust' });
  const twice = (last: string): Buffer =>
    packet(`user|bad|user|${last}|replication|true|replication|off||`);
  await say(twice('good'));
  assert.deepEqual(server.heard(0), encodeStartup({ user: 'good', database: 'good' }));
  assert.match(
    (await say(packet('user|good|user|bad||'))).refusal() ?? '',
    /^28000 no .* user "bad"/,
  );
});

test('version and extensions are passed on, for the server to negotiate', async (t) => {
  const { server, say } = await begin(t);
  await say(packet('_pq_.a|1|user|u|_pq_.b|||', 0x0003_0002));
  assert.equal(
    server.heard(0).subarray(4).toString('latin1'),
    packet('user|u|database|u|_pq_.a|1|_pq_.b|||', 0x0003_0002).subarray(4).toString('latin1'),
  );
});

test('what comes with the startup packet, or before the server is there, is kept', async (t) => {
  const { server, say } = await begin(t, { isHeldUp: true });
  const startup = encodeStartup({ user: 'u', database: 'd' });
  const client = await say(encodeSslRequest(), Buffer.concat([startup, encodeQuery('SELECT 1')]));
  client.socket.write(encodeQuery('SELECT 2'));
  await settle();
  server.letIn();
  await settle();
  const queries = [encodeQuery('SELECT 1'), encodeQuery('SELECT 2')];
  assert.deepEqual(server.heard(0), Buffer.concat([startup, ...queries]));
  server.say(0, GREETING);
  await settle();
  assert.deepEqual(client.heard(), Buffer.concat([Buffer.from('N'), GREETING]));
});

test('rules decide by database, user and address, also for replication=database', async (t) => {
  const rules = [
    'host secret all all reject',
    'host all eve all reject',
    'host shop all 192.0.2.0/24 trust',
    'host all all 198.51.100.0/24 trust',
    'host replication all all trust',
  ].join('\n');
  const { server, say } = await begin(t, { rules });
  const about = 'host "192.0.2.7", user';
  for (const [asked, refusal] of [
    [{ user: 'u', database: 'shop' }, undefined],
    [{ user: 'u', database: 'shop', replication: 'database' }, undefined],
    [
      { user: 'u', database: 'secret' },
      `28000 walcade_hba.conf rejects connection for ${about} "u", database "secret", ` +
        'no encryption',
    ],
    [
      { user: 'u', database: 'secret', replication: 'database' },
      `28000 walcade_hba.conf rejects connection for ${about} "u", database "secret", ` +
        'no encryption',
    ],
    [
      { user: 'eve', database: 'shop' },
      `28000 walcade_hba.conf rejects connection for ${about} "eve", database "shop", ` +
        'no encryption',
    ],
    [
      { user: 'u', database: 'other' },
      `28000 no walcade_hba.conf entry for ${about} "u", database "other", no encryption`,
    ],
    [
      { user: 'u', database: 'replication' },
      `28000 no walcade_hba.conf entry for ${about} "u", database "replication", no encryption`,
    ],
  ] as const) {
    const before = server.count;
    const client = await say(encodeStartup(asked));
    assert.equal(client.refusal(), refusal);
    assert.equal(server.count - before, refusal === undefined ? 1 : 0);
  }
});

test('while the server does not run, its clients are told that it is starting up', async (t) => {
  const { node, server, say } = await begin(t);
  server.isAway = true;
  const client = await say(encodeStartup({ user: 'u' }));
  const fields = decodeErrorFields(client.heard().subarray(5));
  assert.equal(`${fields.severity} ${fields.sqlstate}`, 'FATAL 57P03');
  assert.equal(fields.message, 'the database system is starting up');
  assert.equal(fields.detail, 'The attached PostgreSQL server is not running at the moment.');
  assert.equal(client.hasEnded(), true);
  assert.ok(!node.log.some(({ level }) => level === 'error'));
});

test("the server's own refusal passes through, and ends both ends", async (t) => {
  const { server, say } = await begin(t);
  const client = await say(encodeStartup({ user: 'u' }));
  const why = new WalcadeError(SQLSTATE.CANNOT_CONNECT_NOW, 'not yet accepting connections');
  server.stream(0).end(encodeErrorResponse(why, 'FATAL'));
  await settle();
  assert.equal(client.refusal(), '57P03 not yet accepting connections');
  assert.equal(client.hasEnded(), true);
});

test('a cancel request with pid and key of an open session is passed on', async (t) => {
  const { server, say } = await begin(t);
  const client = await say(encodeStartup({ user: 'u' }));
  server.say(0, GREETING);
  await settle();

  // The requester's connection closes once the server has dealt with the request.
  const requester = await say(encodeCancelRequest(4711, KEY));
  assert.equal(server.count, 2);
  assert.deepEqual(server.heard(1), encodeCancelRequest(4711, KEY));
  assert.equal(requester.hasEnded(), false);
  server.stream(1).end();
  await settle();
  assert.equal(requester.hasEnded(), true);
  assert.equal(requester.heard().length, 0);
  assert.deepEqual(client.heard(), GREETING);

  // Of what does not fit, nothing is heard.
  for (const [pid, key] of [
    [4711, Buffer.alloc(32)],
    [4711, KEY.subarray(0, 4)],
    [4712, KEY],
    [5_000_000, KEY],
    [0, KEY],
  ] as const) {
    const stranger = await say(encodeCancelRequest(pid, key));
    assert.equal(stranger.hasEnded(), true);
    assert.equal(stranger.heard().length, 0);
  }
  assert.equal(server.count, 2);
});

test('a session that has ended is never cancelled', async (t) => {
  for (const side of ['client', 'server'] as const) {
    const { server, say } = await begin(t);
    const client = await say(encodeStartup({ user: 'u' }));
    server.say(0, GREETING);
    await settle();
    (side === 'client' ? client.socket : server.stream(0)).destroy();
    await settle();
    assert.equal((await say(encodeCancelRequest(4711, KEY))).hasEnded(), true);
    assert.equal(server.count, 1);
  }

  // Nor one that ends while the request is on its way.
  const { server, say } = await begin(t);
  const client = await say(encodeStartup({ user: 'u' }));
  server.say(0, GREETING);
  await settle();
  server.isHeldUp = true;
  const requester = await say(encodeCancelRequest(4711, KEY));
  client.socket.destroy();
  await settle();
  server.letIn();
  await settle();
  assert.equal(server.heard(1).length, 0);
  assert.equal(requester.hasEnded(), true);
});

test('authentication_timeout ends who does not begin, until the server has answered', async (t) => {
  const { node, server, say } = await begin(t);
  const silent = await say(Buffer.alloc(0));
  const waiting = await say(encodeStartup({ user: 'u' }));
  const greeted = await say(encodeStartup({ user: 'u' }));
  server.say(1, GREETING);
  await node.clock.pass(61_000);
  assert.deepEqual(
    [silent, waiting, greeted].map((each) => each.hasEnded()),
    [true, true, false],
  );
  assert.equal(server.stream(0).destroyed, true);

  // Also while the connection to the server is being made.
  server.isHeldUp = true;
  const held = await say(encodeStartup({ user: 'u' }));
  await node.clock.pass(61_000);
  assert.equal(held.hasEnded(), true);
  server.letIn();
  await settle();
  assert.equal(server.stream(2).destroyed, true);
});

test('who is let in is no stranger any more, and strangers have a limit', async (t) => {
  const { node, server, say } = await begin(t, { maxWalSenders: 1 });
  const clients = [];
  for (let i = 0; i < 400; i++) clients.push(await say(encodeStartup({ user: 'u' })));
  assert.equal(server.count, 400);
  const strangers = Array.from({ length: 300 }, () => node.connect());
  await settle();
  assert.equal(strangers.filter(({ destroyed }) => destroyed).length, 300 - 252);
  assert.equal(clients.filter((each) => each.hasEnded()).length, 0);
});

test("a stop lets clients hear the server's last words, and closes what is left", async (t) => {
  const { node, server, say } = await begin(t);
  const told = await say(encodeStartup({ user: 'u' }));
  const left = await say(encodeStartup({ user: 'u' }));
  for (const each of [0, 1]) server.say(each, GREETING);
  await settle();
  const why = new WalcadeError(SQLSTATE.ADMIN_SHUTDOWN, 'terminating connection');
  server.stream(0).end(encodeErrorResponse(why, 'FATAL'));
  let hasStopped = false;
  const stopping = node.door.stop().then(() => (hasStopped = true));
  await settle();
  assert.match(told.heard().toString('latin1'), /57P01/);
  assert.equal(told.hasEnded(), true);
  assert.equal(left.hasEnded(), false);
  assert.match((await say(encodeStartup({ user: 'u' }))).refusal() ?? '', /shutting down$/);
  assert.equal(hasStopped, false);
  await node.clock.pass(5000);
  await stopping;
  assert.equal(left.hasEnded(), true);
  assert.equal(server.stream(1).destroyed, true);
});

// A client that is closed while it speaks is told of a reset, and may lose what it had not read.
test('a client that speaks on when its server has gone is read for five seconds', async (t) => {
  const { node, server, say } = await begin(t);
  const speaker = await say(encodeStartup({ user: 'u' }));
  const leaver = await say(encodeStartup({ user: 'u' }));
  const query = encodeQuery(`SELECT '${'x'.repeat(100_000)}'`);
  server.stream(0).pause();
  for (let i = 0; i < 3; i++) speaker.socket.write(query);
  await settle();
  assert.ok(speaker.socket.writableLength > 0, 'the client is held back');
  const why = new WalcadeError(SQLSTATE.ADMIN_SHUTDOWN, 'terminating connection');
  for (const each of [0, 1]) server.stream(each).end(encodeErrorResponse(why, 'FATAL'));
  await settle();
  leaver.socket.end();
  await settle();
  assert.equal(leaver.socket.destroyed, true, 'who has nothing to say is not waited for');

  for (const ms of [1000, 1000, 1000, 1000, 999]) {
    speaker.socket.write(query);
    await node.clock.pass(ms);
    assert.equal(speaker.socket.writableLength, 0, 'what it says is taken');
    assert.equal(speaker.socket.destroyed, false);
  }
  assert.equal(speaker.refusal(), '57P01 terminating connection');
  await node.clock.pass(1);
  assert.equal(speaker.socket.destroyed, true);
});

test('a close ends all sessions at once', async (t) => {
  const { node, server, say } = await begin(t);
  const client = await say(encodeStartup({ user: 'u' }));
  node.door.close();
  await settle();
  assert.equal(client.hasEnded(), true);
  assert.equal(server.stream(0).destroyed, true);
});

test('on the private socket only physical replication is served, beyond all limits', async (t) => {
  const { node } = await begin(t, { maxWalSenders: 0, rules: 'local all all reject' });
  const attach = async (parameters: Record<string, string>): Promise<Client> => {
    const [near, far] = duplexPair();
    node.door.acceptAttached(far);
    const client = listen(near);
    near.write(encodeStartup({ user: 'postgres', ...parameters }));
    await settle();
    return client;
  };
  assert.equal((await attach({ replication: 'true' })).refusal(), undefined);
  assert.deepEqual(
    node.context.downstreams.all().map(({ isAttached }) => isAttached),
    [true],
  );
  for (const parameters of [{}, { replication: 'database' }]) {
    const refused = await attach(parameters);
    assert.equal(refused.refusal(), '0A000 only physical replication is served on this socket');
  }
});

test('the attached server does not count for max_wal_senders', async (t) => {
  const { node, say } = await begin(t, { maxWalSenders: 1 });
  const [near, far] = duplexPair();
  node.door.acceptAttached(far);
  listen(near);
  const replication = encodeStartup({ user: 'postgres', replication: 'true' });
  near.write(replication);
  await settle();
  assert.equal((await say(replication)).refusal(), undefined);
  assert.match((await say(replication)).refusal() ?? '', /^53300 .*\(currently 1\)$/);
});

test('log_connections tells who comes, and as whom he is let in', async (t) => {
  const { node, say } = await begin(t, { logConnections: true });
  const from = (mark: number): string[] => node.log.slice(mark).map(({ message }) => message);
  for (const [asked, words] of [
    [{ user: 'u', database: 'd' }, 'connection authorized: user=u database=d'],
    [
      { user: 'u', application_name: 'psql' },
      'connection authorized: user=u database=u application_name=psql',
    ],
    [
      { user: 'u', replication: 'database', application_name: 'sub' },
      'replication connection authorized: user=u application_name=sub',
    ],
  ] as const) {
    const mark = node.log.length;
    await say(encodeStartup(asked));
    assert.deepEqual(from(mark), ['connection received', words]);
  }
});

async function begin(
  t: TestContext,
  {
    rules,
    isHeldUp = false,
    ...settings
  }: { rules?: string; isHeldUp?: boolean } & MemoryNodeOptions = {},
): Promise<{
  node: MemoryNode;
  server: ScriptedServer;
  say: (...packets: Buffer[]) => Promise<Client>;
}> {
  const server = new ScriptedServer({ isHeldUp });
  const hba = rules === undefined ? {} : { hbaRules: parseHba(rules, 'walcade_hba.conf') };
  const node = await MemoryNode.open(WAL, { ...settings, ...hba, server });
  t.after(() => node.close());
  const say = async (...packets: Buffer[]): Promise<Client> => {
    const client = listen(node.connect());
    for (const bytes of packets) client.socket.write(bytes);
    await settle();
    return client;
  };
  return { node, server, say };
}

/** A first packet from its version and the rest, `|` standing for a zero byte. */
function packet(rest: string, version = 0x0003_0000): Buffer {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + rest.length, 0);
  head.writeUInt32BE(version, 4);
  return Buffer.concat([head, Buffer.from(rest.replaceAll('|', '\0'))]);
}
