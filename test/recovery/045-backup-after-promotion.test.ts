/**
 * Base backups of nodes after promotions: whichever node of the tree gives one, a standby that is
 * made of it starts behind any node, and has what the primary has. Our own client takes them, in
 * the words of the tested major, and stock pg_basebackup where the machine has it.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { backUp } from '../harness/base-backup.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { PrimaryPair, assertStartsBehind, pairWithNodes } from '../harness/primary-pair.ts';
import { TestDirectory } from '../harness/test-directory.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

test('a backup of any node starts behind any node, after 1, 2 and 4 promotions', async (t) => {
  const { tree, pair, nodes } = await pairWithNodes(t);
  let promotions = 0;
  for (const wanted of [1, 2, 4]) {
    for (; promotions < wanted; promotions += 1) await pair.switchOver();
    const { primary } = pair;
    for (const [index, from] of nodes.entries()) {
      const directory = join(tree.path, `of-${from.name}-after-${wanted}`);
      const backup = await backUp(directory, { port: from.port });
      assert.ok(backup.start <= backup.end);
      const behind = wanted === 4 ? nodes : [nodes[(index + wanted) % nodes.length] ?? from];
      for (const node of behind) await assertStartsBehind(node, { tree, directory, primary });
    }
  }
});

test('pg_basebackup takes verified backups of any node after promotions', async (t) => {
  const tools = await findTools(['pg_basebackup', 'pg_verifybackup', 'pg_waldump']);
  if (tools === undefined) {
    t.diagnostic('this machine has no pg_basebackup: only the test above has shown backups');
    return;
  }
  const { binaries } = tools;
  const { tree, pair, nodes } = await pairWithNodes(t, { binaries });
  await pair.switchOver();
  await pair.switchOver();
  const { primary } = pair;
  let count = 0;
  for (const from of nodes) {
    for (const method of ['stream', 'fetch']) {
      const directory = join(tree.path, `of-${from.name}-${method}`);
      const options = ['-D', directory, '-X', method, '-c', 'fast', '--no-sync'];
      await tools.run('pg_basebackup', ['-d', from.conninfo, ...options]);
      const { stdout } = await tools.run('pg_verifybackup', [directory]);
      assert.match(stdout, /backup successfully verified/);
      const behind = nodes[(count += 1) % nodes.length] ?? from;
      await assertStartsBehind(behind, { tree, directory, primary, binaries });
    }
  }
});

test('a backup of timeline 1 starts behind nodes whose WAL begins on a later one', async (t) => {
  const tree = await TestDirectory.create(t);
  const pair = await PrimaryPair.start(tree);
  const first = await WalcadeNode.init(tree, { name: 'first', upstream: pair.conninfo });
  await first.start();
  const directory = join(tree.path, 'of-first');
  await backUp(directory, { port: first.port });
  await pair.insert();
  await pair.switchOver();
  await pair.switchOver();

  // One that was made after that, one below it, and one with a server.
  const relay = await WalcadeNode.init(tree, { name: 'relay', upstream: pair.conninfo });
  await relay.start();
  const lower = await WalcadeNode.init(tree, { name: 'lower', upstream: relay.conninfo });
  await lower.start();
  const served = await WalcadeNode.init(tree, {
    name: 'served',
    upstream: lower.conninfo,
    withPostgres: true,
  });
  await served.start();
  const { primary } = pair;
  for (const behind of [first, relay, lower, served]) {
    await assertStartsBehind(behind, { tree, directory, primary });
  }
  await served.waitForCatchup(primary);
  assert.equal(await served.dump(), await primary.dump());
});
