/**
 * Base backups that are taken while servers are promoted. One that cannot be had at that moment
 * says what to do, and is had the next time; all that are had make standbys behind any node.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { asWalcadeError } from '../../src/base/errors.ts';
import { backUp } from '../harness/base-backup.ts';
import type { PostgresBinaries } from '../harness/postgres-binaries.ts';
import { numberClusterWithNode } from '../harness/number-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import type { PostgresCluster } from '../harness/postgres-cluster.ts';
import {
  type PairWithNodes,
  type PrimaryPair,
  assertStartsBehind,
  pairWithNodes,
} from '../harness/primary-pair.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

/** Of an error within the data pg_basebackup of 15 and later says no more than that. */
const SAYS_WHAT_TO_DO = /HINT: +\S|COPY stream ended before last file was finished/;

/** Takes a backup of the node into the directory; throws what is said if there is none. */
type TakeBackup = (node: WalcadeNode, directory: string) => Promise<void>;

const byOurClient: TakeBackup = async (node, directory) => {
  try {
    await backUp(directory, { port: node.port });
  } catch (error) {
    const { message, detail = '', hint = '' } = asWalcadeError(error);
    throw new Error(`${message}\nDETAIL: ${detail}\nHINT: ${hint}`, { cause: error });
  }
};

test('nodes give backups to our client while two servers take turns as primary', async (t) => {
  const all = await pairWithNodes(t);
  const { taken, refused } = await backUpWhileSwitching(all, byOurClient);
  t.diagnostic(`${taken.length} backups, ${refused.length} refused: ${refused.join('; ')}`);
  await assertAllStart(all, taken);
});

test('so they do to pg_basebackup, which streams or fetches the WAL meanwhile', async (t) => {
  const tools = await findTools(['pg_basebackup']);
  if (tools === undefined) {
    t.diagnostic('this machine has no pg_basebackup: only the test above has shown backups');
    return;
  }
  const { binaries } = tools;
  const all = await pairWithNodes(t, { binaries });
  let count = 0;
  const byTool: TakeBackup = async (node, directory) => {
    const method = (count += 1) % 3 === 0 ? 'fetch' : 'stream';
    const options = ['-D', directory, '-X', method, '-c', 'fast', '--no-sync'];
    await tools.run('pg_basebackup', ['-d', node.conninfo, ...options]);
  };
  const { taken, refused } = await backUpWhileSwitching(all, byTool);
  t.diagnostic(`${taken.length} backups, ${refused.length} refused: ${refused.join('; ')}`);
  await assertAllStart(all, taken, binaries);
});

/** When in a switchover a backup is asked for. */
const MOMENTS: Record<string, (left: PostgresCluster, pair: PrimaryPair) => boolean> = {
  'while the primary still runs': () => true,
  'while there is none': (left) => !left.isRunning,
  'while the other one has just become it': (left, pair) => pair.primary !== left,
};

/** Asks each node for a backup at each moment of a switchover, and for one after all of them. */
async function backUpWhileSwitching(
  { tree, pair, nodes }: PairWithNodes,
  take: TakeBackup,
): Promise<{ taken: string[]; refused: string[] }> {
  const taken: string[] = [];
  const refused: string[] = [];
  const backUpOf = async (node: WalcadeNode): Promise<void> => {
    const directory = join(tree.path, `backup${taken.length + refused.length}`);
    await take(node, directory);
    taken.push(directory);
  };
  for (const [moment, isThere] of Object.entries(MOMENTS)) {
    for (const node of nodes) {
      const left = pair.primary;
      const switching = pair.switchOver();
      try {
        await waitFor(moment, () => isThere(left, pair));
        await backUpOf(node).catch((error: Error) => {
          assert.match(error.message, SAYS_WHAT_TO_DO);
          refused.push(`${node.name} ${moment}: ${error.message}`);
        });
      } finally {
        await switching;
      }
    }
  }
  for (const node of nodes) await backUpOf(node);
  return { taken, refused };
}

test('a node that is promoted gives backups before, meanwhile and after', async (t) => {
  const { tree, node } = await numberClusterWithNode(t);
  node.expectLog(/the standby was promoted during online backup/);
  const lower = await WalcadeNode.init(tree, { name: 'lower', upstream: node.conninfo });
  await lower.start();
  const directories = ['before', 'meanwhile', 'after', 'below'].map((moment) =>
    join(tree.path, `backup-${moment}`),
  );
  const [before = '', meanwhile = '', after = '', ofLower = ''] = directories;
  await byOurClient(node, before);
  const outcome = byOurClient(node, meanwhile).catch((error: Error) => error);
  const { code, stderr } = await node.cli(['promote', '-D', node.directory]);
  assert.equal(code, 0, stderr);
  const error = await outcome;
  t.diagnostic(error === undefined ? 'it was taken meanwhile' : error.message);
  if (error !== undefined) {
    assert.match(error.message, /HINT: +\S/);
    await byOurClient(node, meanwhile);
  }
  await byOurClient(node, after);
  await byOurClient(lower, ofLower);
  for (const directory of directories) {
    for (const behind of [node, lower]) {
      await assertStartsBehind(behind, { tree, directory, primary: node });
    }
  }
});

/** Each backup makes a standby behind one node, all nodes in turn. */
async function assertAllStart(
  { tree, pair: { primary }, nodes }: PairWithNodes,
  directories: readonly string[],
  binaries?: PostgresBinaries,
): Promise<void> {
  for (const [index, directory] of directories.entries()) {
    const behind = nodes[index % nodes.length] ?? assert.fail();
    await assertStartsBehind(behind, { tree, directory, primary, binaries });
  }
}
