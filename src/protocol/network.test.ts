/** The door to the network: listening and connecting on this machine, and what can be wrong. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { lstat, mkdtemp, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { type TestContext, test } from 'node:test';
import {
  type PeerAddress,
  checkSocketPath,
  describeAddress,
  describePeer,
  systemNetwork,
  unixSocketPath,
} from './network.ts';

const SIGNAL = new AbortController().signal;

test('addresses are described as people know them', () => {
  assert.equal(describeAddress({ host: '10.0.0.1', port: 5432 }), '10.0.0.1:5432');
  assert.equal(describeAddress({ host: '/tmp', port: 5432 }), '/tmp/.s.PGSQL.5432');
  assert.equal(describePeer({ transport: 'local' }), '[local]');
  const tcp = { transport: 'tcp', address: '10.0.0.1', port: 99, localAddress: '' } as const;
  assert.equal(describePeer(tcp), '10.0.0.1(99)');
});

test('a socket path of 107 bytes is the longest', () => {
  checkSocketPath('/'.padEnd(107, 'x'));
  assert.throws(() => checkSocketPath('/'.padEnd(108, 'x')), {
    sqlstate: '22023',
    message: /is too long \(maximum 107 bytes\)$/,
  });
});

test('a connection over TCP carries bytes both ways and knows its peer', async () => {
  const port = await freePort();
  const { accept, accepted } = acceptOne();
  const address = { host: '127.0.0.1', port };
  const listener = await systemNetwork.listen(address, { accept, mode: 0 });
  const client = await systemNetwork.connect(address, SIGNAL);
  const { socket, peer } = await accepted;
  client.write('ping');
  assert.equal(String((await once(socket, 'data'))[0]), 'ping');
  socket.write('pong');
  assert.equal(String((await once(client, 'data'))[0]), 'pong');
  assert.equal(peer.transport === 'tcp' ? peer.address : '', '127.0.0.1');

  // The port is taken while it listens, and free afterwards.
  await assert.rejects(systemNetwork.listen(address, { accept, mode: 0 }), {
    sqlstate: '55006',
    message: `could not bind address "127.0.0.1", port ${port}: Address already in use`,
  });
  listener.close();
  client.destroy();
  socket.destroy();
});

test('a client that has said its last is still answered', async () => {
  const port = await freePort();
  const { accept, accepted } = acceptOne();
  const listener = await systemNetwork.listen({ host: '127.0.0.1', port }, { accept, mode: 0 });
  const client = await systemNetwork.connect({ host: '127.0.0.1', port }, SIGNAL);
  const { socket } = await accepted;
  client.end('last words');
  socket.resume();
  await once(socket, 'end');
  assert.equal(socket.writable, true);
  socket.end('answer');
  assert.equal(String((await once(client, 'data'))[0]), 'answer');
  await once(client, 'close');
  listener.close();
});

test('a Unix socket has the permissions asked for, and a stale one is replaced', async (t) => {
  const host = await temporaryDirectory(t);
  const { accept, accepted } = acceptOne();
  const address = { host, port: 5432 };
  const path = unixSocketPath(host, 5432);
  const listener = await systemNetwork.listen(address, { accept, mode: 0o700 });
  assert.equal((await stat(path)).mode & 0o777, 0o700);
  await assert.rejects(systemNetwork.listen(address, { accept, mode: 0 }), { sqlstate: '55006' });
  const client = await systemNetwork.connect(address, SIGNAL);
  assert.deepEqual((await accepted).peer, { transport: 'local' });
  listener.close();
  client.destroy();
  (await accepted).socket.destroy();

  // What a crash has left under that name is nobody's.
  await writeFile(unixSocketPath(host, 2), '');
  const again = await systemNetwork.listen({ host, port: 2 }, { accept, mode: 0o700 });
  again.close();
});

test('the permissions of a Unix socket are its own, and no other file gets them', async (t) => {
  const host = await temporaryDirectory(t);
  const { accept } = acceptOne();
  const usual = process.umask();
  for (const [port, mode] of [0o777, 0o770, 0o700, 0].entries()) {
    const listener = await systemNetwork.listen({ host, port }, { accept, mode });
    assert.equal((await stat(unixSocketPath(host, port))).mode & 0o777, mode);
    assert.equal(process.umask(), usual);
    listener.close();
  }
});

// They were set by name after the socket was made: a link that had replaced it gave away a file.
test('a link in place of a Unix socket is replaced, not followed', async (t) => {
  const host = await temporaryDirectory(t);
  const file = join(host, 'file');
  await writeFile(file, 'secret', { mode: 0o600 });
  await symlink(file, unixSocketPath(host, 1));
  const { accept } = acceptOne();
  const listener = await systemNetwork.listen({ host, port: 1 }, { accept, mode: 0o777 });
  assert.ok((await lstat(unixSocketPath(host, 1))).isSocket());
  assert.equal((await stat(file)).mode & 0o777, 0o600);
  listener.close();
});

test('nobody listening, and nobody there, is told with the address', async (t) => {
  const port = await freePort();
  await assert.rejects(systemNetwork.connect({ host: '127.0.0.1', port }, SIGNAL), {
    sqlstate: '08001',
    message: `connection to server at "127.0.0.1", port ${port} failed: Connection refused`,
  });
  const host = await temporaryDirectory(t);
  const socket = `${host}/.s.PGSQL.1`;
  await assert.rejects(systemNetwork.connect({ host, port: 1 }, SIGNAL), {
    sqlstate: '08001',
    message: `connection to server on socket "${socket}" failed: No such file or directory`,
  });
});

test('a connection that is given up before it is made rejects with the reason', async () => {
  const stop = new AbortController();
  const reason = new Error('never mind');
  const connecting = systemNetwork.connect({ host: '192.0.2.1', port: 1 }, stop.signal);
  stop.abort(reason);
  await assert.rejects(connecting, reason);
  await assert.rejects(systemNetwork.connect({ host: '127.0.0.1', port: 1 }, stop.signal), reason);
});

test('an IP address is its own address', async () => {
  assert.deepEqual(await systemNetwork.resolve('127.0.0.1'), ['127.0.0.1']);
});

function acceptOne(): {
  accept: (socket: Duplex, peer: PeerAddress) => void;
  accepted: Promise<{ socket: Duplex; peer: PeerAddress }>;
} {
  let resolveIt: (value: { socket: Duplex; peer: PeerAddress }) => void;
  const accepted = new Promise<{ socket: Duplex; peer: PeerAddress }>((resolve) => {
    resolveIt = resolve;
  });
  return { accept: (socket, peer) => resolveIt({ socket, peer }), accepted };
}

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address() as AddressInfo;
  probe.close();
  await once(probe, 'close');
  return port;
}

async function temporaryDirectory(t: TestContext): Promise<string> {
  const path = await mkdtemp(join(tmpdir(), 'walcade-network-'));
  t.after(() => rm(path, { recursive: true, force: true }));
  return path;
}
