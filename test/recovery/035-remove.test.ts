/** `walcade remove`: what goes with a node is the node's, and nothing of another one's. */
import assert from 'node:assert/strict';
import { cp, readFile, readdir, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const SLOTS = 'SELECT slot_name FROM pg_replication_slots ORDER BY 1';

// The original's slot was dropped, as walcade.conf of the copy still had its name.
test('removing a copy that was never started leaves the slot of the original', async (t) => {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  const node = await WalcadeNode.init(tree, { name: 'node', upstream: primary.conninfo });
  await node.start();
  await node.stop();

  // A copy under another name, removed before it was anything of its own.
  const copy = join(tree.path, 'copy');
  await cp(node.directory, copy, { recursive: true });
  const conf = join(copy, 'walcade.conf');
  const text = await readFile(conf, 'utf8');
  await writeFile(conf, text.replace("cluster_name = 'node'", "cluster_name = 'copy'"));
  const first = await node.cli(['remove', '-D', copy, '--yes']);
  assert.deepEqual(first, { code: 0, stdout: `node in "${copy}" removed\n`, stderr: '' });
  assert.equal(await primary.sql(SLOTS), 'node');

  // The original goes with its slot, also by a link to it.
  const link = join(tree.path, 'link');
  await symlink(node.directory, link);
  const second = await node.cli(['remove', '-D', link, '--yes']);
  assert.equal(second.stdout, `node in "${link}" removed, slot "node" dropped on the upstream\n`);
  assert.equal(await primary.sql(SLOTS), '');
  assert.ok(!(await readdir(tree.path)).includes('node'));
});
