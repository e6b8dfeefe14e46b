/**
 * A primary, a node with an attached server behind it and, if asked for, a standby behind that,
 * which tests of the attached server's life begin with, and how what is left of one is looked at.
 *
 * Segments are of 1 MB. The primary keeps no WAL but what slots ask for, and the node only what
 * somebody needs.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import type { ServerStatus } from '../../src/admin/node-status.ts';
import { readControlData } from '../../src/postgres/control-data.ts';
import { type LoadPrimary, loadPrimary } from './load-primary.ts';
import { PostgresCluster, type Settings } from './postgres-cluster.ts';
import { freezeTree } from './process-tree.ts';
import type { TestDirectory } from './test-directory.ts';
import { waitFor, waitForValue } from './wait.ts';
import { WalcadeNode } from './walcade-node.ts';

const run = promisify(execFile);

export interface AttachedCluster extends LoadPrimary {
  node: WalcadeNode;
}

export interface AttachedOptions {
  primarySettings?: Settings;
  nodeSettings?: Record<string, string | number>;
  /** Gives what the node connects to, if not the primary itself. */
  upstream?: (tree: TestDirectory, primary: PostgresCluster) => Promise<string>;
  /** Starts the node in another way. */
  startNode?: (cluster: AttachedCluster) => Promise<void>;
}

/** Both running, the node caught up. */
export async function attachedCluster(
  t: TestContext,
  { primarySettings = {}, nodeSettings = {}, upstream, startNode }: AttachedOptions = {},
): Promise<AttachedCluster> {
  const { tree, primary } = await loadPrimary(t, primarySettings);
  const node = await WalcadeNode.init(tree, {
    name: 'node',
    upstream: (await upstream?.(tree, primary)) ?? primary.conninfo,
    withPostgres: true,
    settings: { wal_retrieve_retry_interval: '200ms', wal_keep_size: 0, ...nodeSettings },
  });
  await (startNode === undefined ? node.start() : startNode({ tree, primary, node }));
  await node.waitForCatchup(primary);
  return { tree, primary, node };
}

/** A standby of the node's, made from the primary's backup and caught up. */
export async function standbyBehind(
  { tree, primary, node }: AttachedCluster,
  settings: Settings = {},
): Promise<PostgresCluster> {
  const standby = await PostgresCluster.standby(tree, {
    name: 'standby',
    from: await primary.backup(join(tree.path, 'backup')),
    upstreamConninfo: node.conninfo,
    settings,
  });
  await standby.start();
  await standby.waitForCatchup(primary);
  return standby;
}

/** The rows of `servers` are those of the primary, now that they have caught up. */
export async function assertSameRows(
  primary: PostgresCluster,
  servers: readonly (PostgresCluster | WalcadeNode)[],
): Promise<void> {
  for (const server of servers) {
    await server.waitForCatchup(primary);
    assert.equal(await server.dump(), await primary.dump());
  }
}

export function dataDirectory(node: WalcadeNode): string {
  return join(node.directory, 'data');
}

export async function serverStatus(node: WalcadeNode): Promise<ServerStatus> {
  const { server } = await node.status();
  assert.ok(server !== null, 'the node has an attached server');
  return server;
}

/** Waits until the attached server answers SQL, started again `restarts` times or more. */
export async function waitUntilReady(node: WalcadeNode, { restarts = 0 } = {}): Promise<void> {
  await waitFor(`the attached server of ${node.name} to be ready`, async () => {
    const status = await serverStatus(node);
    return status.state === 'ready' && status.restarts >= restarts;
  });
}

/** Whether the attached server shut down in order, by its control file. */
export async function assertCleanEnd(node: WalcadeNode): Promise<void> {
  const { state } = await readControlData(dataDirectory(node));
  assert.equal(state, 'shut down in recovery');
}

/** Every process of the node's that there is: itself, its watcher, its server's. */
export async function processesOf({ directory }: WalcadeNode): Promise<string[]> {
  const { stdout } = await run('ps', ['-axww', '-o', 'pid=,stat=,command=']);
  const found: string[] = [];
  for (const line of stdout.split('\n')) {
    const [, pid = '', state = ''] = /^\s*(\d+)\s+(\S+)/.exec(line) ?? [];
    if (pid === '' || state.startsWith('Z')) continue;
    // A server's child says nothing of its directory but by standing in it (not on macOS).
    const place = await readlink(`/proc/${pid}/cwd`).catch(() => '');
    if (line.includes(`${directory}/`) || place.startsWith(`${directory}/`)) found.push(line);
  }
  return found;
}

/** Waits until no process is left of a node that has ended. */
export async function waitUntilGone(node: WalcadeNode): Promise<void> {
  await waitForValue(`the processes of ${node.name} to be gone`, '', async () =>
    (await processesOf(node)).join('\n'),
  );
}

/** The process that watches the attached server. */
export async function watcherPid(node: WalcadeNode): Promise<number> {
  const processes = await processesOf(node);
  const watcher = processes.find((line) => line.includes('walcade-watcher'));
  assert.ok(watcher !== undefined, 'there is a watcher');
  return Number.parseInt(watcher, 10);
}

/** Stops the attached server in its tracks; gives what lets it go on, which the test's end does. */
export async function freezeServer({ tree, node }: AttachedCluster): Promise<() => void> {
  const { pid } = await serverStatus(node);
  assert.ok(pid !== null, 'the server runs');
  const thaw = await freezeTree(pid);
  tree.add({ name: `frozen server of ${node.name}`, end: async () => thaw() });
  return thaw;
}
