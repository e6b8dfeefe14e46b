/**
 * Everything that can be wrong around a node: each is one message with what to do about it and
 * an exit status that is not 0, and leaves nothing half made, here or upstream.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { parseLsn } from '../../src/wal/lsn.ts';
import {
  PROGRAM,
  type Refusal,
  assertDone,
  assertRefused,
  initNode,
  walcade,
} from '../harness/command-line.ts';
import { FaultyNetwork } from '../harness/faulty-network.ts';
import { startPrimaryWithRoles } from '../harness/primary-with-roles.ts';
import { ScriptedPrimary } from '../harness/scripted-primary.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';
import { WalClient } from '../harness/wal-client.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('init refuses what is no connection string, with how one looks', async (t) => {
  const tree = await TestDirectory.create(t);
  const cases: [string, Refusal][] = [
    ['', { message: /^invalid upstream: connection info string is empty$/, hint: /host=/ }],
    ['port=abc', { message: /invalid integer value "abc" for connection option "port"/ }],
    ['prot=5432', { message: /invalid connection option "prot"/, hint: /user=replicator/ }],
    ['host', { message: /missing "=" after "host"/, hint: /host=/ }],
    [
      'host=localhost sslmode=require',
      {
        message: /connection option sslmode=require is not supported yet/,
        detail: /no TLS/,
        hint: /network is trusted/,
      },
    ],
  ];
  for (const [conninfo, refusal] of cases) {
    assertRefused(await initNode(tree, conninfo), refusal);
    assert.equal(existsSync(join(tree.path, 'node')), false, conninfo);
  }
});

test('init refuses arguments that no node could have', async (t) => {
  const tree = await TestDirectory.create(t);
  const upstream = 'host=127.0.0.1';
  const usage = { status: 2, hint: /Try "walcade init --help"/ };
  assertRefused(await walcade(['init', '-D', 'node'], tree.path), {
    ...usage,
    message: /required option '--upstream <conninfo>' not specified/,
  });
  assertRefused(await initNode(tree, upstream, '--start-lsn', '0-1'), {
    ...usage,
    message: /invalid input syntax for type pg_lsn: "0-1"/,
  });
  assertRefused(await initNode(tree, upstream, '--port', '99999'), {
    message: /99999 is outside the valid range for parameter "port" \(1 \.\. 65535\)/,
  });
  assertRefused(await initNode(tree, upstream, '--slot', 'My-Slot'), {
    message: /replication slot name "My-Slot" contains invalid character/,
    hint: /lower case letters/,
  });
  assertRefused(await walcade(['innit'], tree.path), {
    status: 2,
    message: /unknown command 'innit'/,
    hint: /Try "walcade --help"/,
  });
  assert.deepEqual(await fs.readdir(tree.path), []);
});

test('init names what answers in the place of PostgreSQL, or that nothing does', async (t) => {
  const tree = await TestDirectory.create(t);
  const nobody = await tree.reservePort();
  const http = await serve(t, tree, (socket) => {
    socket.on('data', () => socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n'));
  });
  const echo = await serve(t, tree, (socket) => socket.pipe(socket));
  const closing = await serve(t, tree, (socket) => socket.on('data', () => socket.end()));
  const silent = await serve(t, tree, () => {});
  const isIt = /PostgreSQL, or a walcade node\?/;
  const cases: [number, Refusal][] = [
    [nobody, { message: /Connection refused$/, hint: /running on that host/ }],
    [http, { message: /invalid message length/, detail: /type byte is 0x48/, hint: isIt }],
    [echo, { message: /invalid message length/, detail: /type byte is 0x00/, hint: isIt }],
    [closing, { message: /server closed the connection unexpectedly$/, hint: isIt }],
    [
      silent,
      {
        message: /timeout expired$/,
        detail: /did not let us in within 1 s/,
        hint: /connect_timeout/,
      },
    ],
  ];
  for (const [port, refusal] of cases) {
    const conninfo = `host=127.0.0.1 port=${port} user=postgres connect_timeout=1`;
    const outcome = await initNode(tree, conninfo);
    assertRefused(outcome, refusal);
    assert.match(outcome.stderr, new RegExp(`server at "127.0.0.1", port ${port} failed: `));
    assert.equal(existsSync(join(tree.path, 'node')), false);
  }

  // Of several hosts, every one is named.
  const ports = `${nobody},${closing}`;
  assertRefused(await initNode(tree, `host=127.0.0.1,127.0.0.1 port=${ports} user=postgres`), {
    message: new RegExp(`port ${closing} failed: server closed`),
    detail: new RegExp(`port ${nobody} failed: Connection refused`),
  });

  // A name that no machine has.
  assertRefused(await initNode(tree, 'host=db1.invalid user=postgres'), {
    message: /server at "db1\.invalid", port 5432 failed: /,
    hint: /running on that host/,
  });
});

test('init that is interrupted while it waits for an upstream leaves nothing behind', async (t) => {
  const tree = await TestDirectory.create(t);
  let isConnected = false;
  const silent = await serve(t, tree, () => (isConnected = true));
  const conninfo = `host=127.0.0.1 port=${silent} user=postgres`;
  const { child, ended } = startInit(tree, conninfo);
  await waitFor('init to connect', () => isConnected);
  child.kill('SIGINT');
  assert.deepEqual(await ended, { status: 1, stderr: 'walcade: error: canceled by SIGINT\n' });
  assert.equal(existsSync(join(tree.path, 'node')), false);
});

test('init that is interrupted while the upstream is silent leaves nothing behind', async (t) => {
  // It waited for ever once it was let in, and only a second Ctrl-C ended it, directory and all.
  const tree = await TestDirectory.create(t);
  const script = {
    systemIdentifier: 1n,
    walEnd: parseLsn('0/100000'),
    silentTo: ['SHOW wal_level'],
  };
  const upstream = await ScriptedPrimary.listen(tree, script);
  const { child, ended } = startInit(tree, upstream.conninfo);
  await waitFor('the question', () => upstream.commands.includes('SHOW wal_level'));
  child.kill('SIGINT');
  assert.deepEqual(await ended, { status: 1, stderr: 'walcade: error: canceled by SIGINT\n' });
  assert.equal(existsSync(join(tree.path, 'node')), false);
});

test('of two that make a node in one directory one is refused, the other makes it', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const network = await FaultyNetwork.between(tree, primary.port);
  network.pause();
  const { child, ended } = startInit(tree, network.conninfo);
  await waitFor('init to connect', () => network.connectionCount > 0);
  assertRefused(await initNode(tree, primary.conninfo), {
    message: /^a node is being made in directory ".*node" by another process$/,
    detail: new RegExp(`\\(PID ${child.pid}\\)`),
    hint: /^Wait for it to end, /,
  });
  network.resume();
  assert.deepEqual(await ended, { status: 0, stderr: '' });
  assert.equal(await primary.sql('SELECT slot_name FROM pg_replication_slots'), 'node');

  // One that is killed is in nobody's way; what it may have made upstream is another matter.
  await fs.rm(join(tree.path, 'node'), { recursive: true });
  network.pause();
  const second = startInit(tree, network.conninfo);
  await waitFor('init to connect again', () => network.connectionCount > 1);
  second.child.kill('SIGKILL');
  await second.ended;
  assert.deepEqual(await fs.readdir(join(tree.path, 'node')), ['walcade.pid']);
  assertDone(await initNode(tree, primary.conninfo, '--no-slot'));
});

test('init tells a refusal of the upstream in its words, with what to do there', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const as = (user: string): string => `host=127.0.0.1 port=${primary.port} ${user}`;
  const cases: [string, Refusal][] = [
    [
      'user=stranger',
      { message: /no pg_hba\.conf entry for replication connection/, hint: /line in pg_hba\.conf/ },
    ],
    [
      'user=rejected',
      { message: /pg_hba\.conf rejects replication connection/, hint: /line in pg_hba\.conf/ },
    ],
    [
      'user=missing',
      { message: /role "missing" does not exist/, hint: /Create role "missing" there/ },
    ],
    [
      'user=reader',
      { message: /permission denied|must be superuser or replication role/, hint: /REPLICATION/ },
    ],
    [
      'user=scram',
      { message: /no password supplied/, detail: /user "scram"/, hint: /~\/\.pgpass/ },
    ],
    ['user=scram password=wrong', { message: /authentication failed for user "scram"/, hint: /C/ }],
    ['user=md5 password=wrong', { message: /authentication failed for user "md5"/, hint: /C/ }],
    ['user=clear password=wrong', { message: /authentication failed for user "clear"/, hint: /C/ }],
    ['user=clear password=right require_auth=scram-sha-256', { message: /"password" is excluded/ }],
  ];
  for (const [user, refusal] of cases) {
    assertRefused(await initNode(tree, as(user)), refusal);
    assert.equal(existsSync(join(tree.path, 'node')), false, user);
  }
  assert.equal(await primary.sql('SELECT count(*) FROM pg_replication_slots'), '0');

  // The right password opens, by each method and from a password file, and is shown nowhere.
  for (const user of ['scram', 'md5', 'clear']) {
    const made = await initNode(tree, as(`user=${user} password=right`), '--name', user);
    assert.doesNotMatch(assertDone(made), /right/);
    assertDone(await walcade(['remove', '-D', 'node', '--yes'], tree.path));
  }
  const passfile = join(tree.path, 'pgpass');
  await fs.writeFile(passfile, `127.0.0.1:${primary.port}:replication:scram:right\n`);
  await fs.chmod(passfile, 0o600);
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: as(`user=scram passfile=${passfile}`),
  });
  await node.start();
  await node.waitForWal(await primary.currentLsn());
  assert.doesNotMatch(JSON.stringify(await node.status()), /right/);

  // Whoever may connect may ask a node for its settings: the password is none of them.
  await node.stop('fast');
  await node.configure({ primary_conninfo: as('user=scram password=right') });
  await node.start();
  const client = await WalClient.connect(tree, node.conninfo);
  const shown = await client.query('SHOW primary_conninfo');
  assert.match(String(shown), /user=scram/);
  assert.doesNotMatch(String(shown) + String(await client.query('SHOW ALL')), /right/);
});

test('init refuses a server that cannot feed a node, and leaves no slot on it', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary', { max_replication_slots: 2 });
  const slots = (): Promise<string> =>
    primary.sql('SELECT string_agg(slot_name, $$,$$) FROM pg_replication_slots');

  // A position that is ahead is found after the slot was made: it goes again.
  assertRefused(await initNode(tree, primary.conninfo, '--start-lsn', 'F/0'), {
    message: /requested starting point F\/0 is ahead of the WAL flush position of the upstream/,
    hint: /Leave out --start-lsn/,
  });
  assert.equal(await slots(), '');
  assert.equal(existsSync(join(tree.path, 'node')), false);

  // A name that is taken, then no slot that is free.
  await primary.sql(`SELECT pg_create_physical_replication_slot('node')`);
  assertRefused(await initNode(tree, primary.conninfo), {
    message: /replication slot "node" already exists on the upstream/,
    hint: /another name with --slot/,
  });
  await primary.sql(`SELECT pg_create_physical_replication_slot('other')`);
  assertRefused(await initNode(tree, primary.conninfo, '--slot', 'third'), {
    message: /all replication slots are in use/,
    hint: /max_replication_slots/,
  });
  assert.equal(await slots(), 'node,other');

  // No WAL sender that is free; and with wal_level = minimal there cannot be one.
  await primary.sql(`SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots`);
  await primary.configure({ max_wal_senders: 0, max_replication_slots: 0, wal_level: 'minimal' });
  await primary.restart();
  assertRefused(await initNode(tree, primary.conninfo), {
    message: /exceeds "?max_wal_senders"? \(currently 0\)/,
    hint: /wal_level = minimal/,
  });
  assert.equal(existsSync(join(tree.path, 'node')), false);
});

test('init takes an empty directory only, and gives it back empty when it fails', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const directory = await tree.makeDirectory('node');
  assertRefused(await initNode(tree, `host=127.0.0.1 port=${await tree.reservePort()}`), {
    message: /Connection refused/,
  });
  assert.deepEqual(await fs.readdir(directory), []);

  await fs.writeFile(join(directory, 'precious'), 'mine');
  assertRefused(await initNode(tree, primary.conninfo), {
    message: /directory ".*node" exists but is not empty/,
    hint: /choose another directory with -D/,
  });
  assert.deepEqual(await fs.readdir(directory), ['precious']);
  assert.equal(await primary.sql('SELECT count(*) FROM pg_replication_slots'), '0');

  assertRefused(
    await walcade(['init', '-D', 'no/such/node', '--upstream', primary.conninfo], tree.path),
    { message: /could not create directory .*: No such file or directory/, hint: /above it/ },
  );
});

test('a node whose address is taken does not start, and says which one', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const port = await serve(t, tree, () => {});
  const sockets = await tree.makeDirectory('s');
  assertDone(await initNode(tree, primary.conninfo, '--port', `${port}`, '--listen', '127.0.0.1'));
  const conf = join(tree.path, 'node', 'walcade.conf');
  await fs.appendFile(conf, `unix_socket_directories = '${sockets}'\n`);
  const hint = new RegExp(`another server already running on port ${port}`);
  assertRefused(await walcade(['start', '-D', 'node'], tree.path), {
    message: new RegExp(
      `^could not start node: could not bind address "127.0.0.1", port ${port}: Address already`,
    ),
    hint,
  });
  const path = join(sockets, `.s.PGSQL.${port}`);
  const taken = await listen(createServer(), path);
  t.after(() => taken.close());
  await fs.appendFile(conf, `listen_addresses = ''\n`);
  assertRefused(await walcade(['start', '-D', 'node'], tree.path), {
    message: new RegExp(`could not bind Unix address "${path}": Address already in use`),
    hint,
  });
  assert.ok(existsSync(path));
});

test('a node that is pointed at another cluster takes nothing from it and says why', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await startPrimaryWithRoles(tree, 'primary');
  const other = await startPrimaryWithRoles(tree, 'other');
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: primary.conninfo,
    settings: { primary_slot_name: '', wal_retrieve_retry_interval: '100ms' },
  });
  await node.configure({ primary_conninfo: other.conninfo });
  const message = 'database system identifier differs between the upstream and this node';
  node.expectLog(new RegExp(message));
  await node.start();
  await node.waitForLog(new RegExp(`ERROR: {2}.*${message}`));
  const log = await node.log.text();
  assert.match(log, /DETAIL: {2}The upstream's identifier is \d+, this node's identifier is \d+\./);
  assert.match(log, /HINT: {2}Point primary_conninfo at a server of the same cluster/);
  const { upstream } = (await node.status()) as unknown as { upstream: { reason: string } };
  assert.equal(upstream.reason, message);

  // Set right, it goes on by a reload; the error was said once.
  await node.configure({ primary_conninfo: primary.conninfo });
  assertDone(await walcade(['reload', '-D', 'node'], tree.path));
  await node.waitForWal(await primary.currentLsn());
  assert.equal((await node.log.text()).split(message).length, 2);
});

/** Begins `walcade init -D node`; gives how it ends, too. */
function startInit(tree: TestDirectory, upstream: string) {
  const child = spawn(process.execPath, [PROGRAM, 'init', '-D', 'node', '--upstream', upstream], {
    cwd: tree.path,
    env: { ...process.env, NO_COLOR: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  tree.add({ name: 'init', end: async () => void child.kill('SIGKILL') });
  let stderr = '';
  child.stderr.on('data', (text: Buffer) => (stderr += text.toString()));
  const ended = once(child, 'close').then(([status]) => ({ status: status as unknown, stderr }));
  return { child, ended };
}

/** A TCP server on a free port that does `accept` with every connection; gives the port. */
async function serve(
  t: TestContext,
  tree: TestDirectory,
  accept: (socket: Socket) => unknown,
): Promise<number> {
  const port = await tree.reservePort();
  const open = new Set<Socket>();
  const server = createServer((socket) => {
    open.add(socket.on('error', () => {}));
    accept(socket);
  });
  await listen(server, port, '127.0.0.1');
  t.after(() => {
    server.close();
    for (const socket of open) socket.destroy();
  });
  return port;
}

async function listen(server: Server, where: number | string, host?: string): Promise<Server> {
  await new Promise<void>((resolve) => {
    if (typeof where === 'string') server.listen(where, resolve);
    else server.listen(where, host, resolve);
  });
  return server;
}
