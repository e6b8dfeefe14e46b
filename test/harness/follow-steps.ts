/**
 * What tests of `walcade follow` do again and again: servers and nodes of one cluster that may be
 * followed, the command itself, and a refusal that changes nothing.
 */
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Lsn, parseLsn } from '../../src/wal/lsn.ts';
import { PostgresCluster } from './postgres-cluster.ts';
import type { TestDirectory } from './test-directory.ts';
import { waitFor } from './wait.ts';
import { type CommandOutcome, WalcadeNode } from './walcade-node.ts';

/** A hot standby of `primary`, made and started; it receives from `upstream` if that is given. */
export async function standbyOf(
  tree: TestDirectory,
  primary: PostgresCluster,
  name: string,
  upstream = primary.conninfo,
): Promise<PostgresCluster> {
  const from = await primary.backup(join(tree.path, `backup-${name}`));
  const standby = await PostgresCluster.standby(tree, { name, from, upstreamConninfo: upstream });
  await standby.start();
  await waitFor(`the WAL receiver of ${name}`, () => standby.walReceiverPid());
  return standby;
}

export async function relayOf(
  tree: TestDirectory,
  upstream: string,
  name: string,
): Promise<WalcadeNode> {
  const settings = { wal_retrieve_retry_interval: '200ms' };
  const relay = await WalcadeNode.init(tree, { name, upstream, settings });
  await relay.start();
  await waitFor(`${name} to stream`, async () => {
    const { state } = (await relay.status()).upstream;
    return state === 'streaming';
  });
  return relay;
}

export async function nodeOf(
  tree: TestDirectory,
  upstream: string,
  name: string,
): Promise<WalcadeNode> {
  const settings = { wal_retrieve_retry_interval: '200ms' };
  const node = await WalcadeNode.init(tree, { name, upstream, withPostgres: true, settings });
  await node.start();
  return node;
}

export function follow(node: WalcadeNode, conninfo: string): Promise<CommandOutcome> {
  return node.cli(['follow', '-D', node.directory, conninfo]);
}

export function several(...servers: readonly { port: number }[]): string {
  const hosts = servers.map(() => '127.0.0.1').join(',');
  return `host=${hosts} port=${servers.map(({ port }) => port).join(',')} user=postgres`;
}

/** `follow` is refused in these words; file and stream are what they were. Gives what was said. */
export async function refused(
  node: WalcadeNode,
  conninfo: string,
  expected: { message: RegExp; detail: RegExp | undefined; hint: RegExp | undefined },
): Promise<string> {
  const conf = join(node.directory, 'walcade.conf');
  const before = { text: await readFile(conf, 'utf8'), mark: await node.log.mark() };
  const { code, stdout, stderr } = await follow(node, conninfo);
  assert.equal(code, 1, stdout + stderr);
  const lines = stderr.trimEnd().split('\n');
  const field = (start: string): string | undefined =>
    lines.find((line) => line.startsWith(start))?.slice(start.length);
  assert.match(field('walcade: error: ') ?? '', expected.message);
  for (const [start, pattern] of [
    ['DETAIL:  ', expected.detail],
    ['HINT:  ', expected.hint],
  ] as const) {
    if (pattern === undefined) assert.equal(field(start), undefined, stderr);
    else assert.match(field(start) ?? '', pattern);
  }
  assert.equal(await readFile(conf, 'utf8'), before.text);
  assert.equal((await node.status()).upstream.state, 'streaming');
  assert.doesNotMatch(await node.log.since(before.mark), /restarts|started streaming|read again/);
  return stderr;
}

/** The sessions of all who receive from `node`, by name. */
export async function connectionsBelow(node: WalcadeNode): Promise<[name: string, pid: number][]> {
  const { downstreams } = await node.status();
  return downstreams
    .map(({ applicationName, pid }): [string, number] => [applicationName, pid])
    .toSorted(([, one], [, other]) => one - other);
}

/** Where timeline 2 of a promoted server began. */
export async function switchPoint(server: PostgresCluster): Promise<Lsn> {
  const path = join(server.dataDirectory, 'pg_wal', '00000002.history');
  const [, position = ''] = (await readFile(path, 'utf8')).trim().split('\t');
  return parseLsn(position);
}
