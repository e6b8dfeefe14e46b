/**
 * Starting and stopping a relay: in peace, at once, twice, after a crash, and with a large store.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { parseLsn } from '../../src/wal/lsn.ts';
import { InProcessNode } from '../harness/in-process-node.ts';
import {
  Load,
  SEGMENT_BYTES,
  assertEqual,
  largeMessage,
  lastReported,
  relayedCluster,
  streamStart,
} from '../harness/relayed-cluster.ts';
import { TestDisk } from '../harness/test-disk.ts';
import { listSegments } from '../harness/wal-files.ts';

test('a relay stopped fast has kept all it has reported, and goes on from there', async (t) => {
  const cluster = await relayedCluster(t);
  const { primary, relay } = cluster;
  const load = new Load(primary);
  for (let round = 1; round <= 3; round++) {
    await relay.waitForWal(await primary.currentLsn());
    assert.equal(await relay.stop('fast'), 'exit status 0');
    assert.ok(!existsSync(join(relay.directory, 'walcade.pid')));
    const reported = await lastReported(primary);
    const mark = await relay.log.mark();
    await relay.start();
    assert.ok((await streamStart(relay, mark)) >= reported);
  }
  await load.stop();
  await assertEqual(cluster);
});

test('a relay stopped at once comes back, and a stopped one says so', async (t) => {
  const cluster = await relayedCluster(t);
  const { primary, relay } = cluster;
  const load = new Load(primary);
  for (let round = 1; round <= 3; round++) {
    await relay.waitForWal(await primary.currentLsn());
    assert.equal(await relay.stop('immediate'), 'exit status 2');
    const { code, stdout } = await relay.cli(['status', '-D', relay.directory]);
    assert.equal(code, 3, stdout);
    await relay.start();
  }
  await load.stop();
  await assertEqual(cluster);
});

test('start, restart and stop work as pg_ctl does, in the background', async (t) => {
  const { tree, primary, relay } = await relayedCluster(t);
  await relay.stop();
  const at = ['-D', relay.directory];
  tree.add({
    name: 'relay in the background',
    end: async () => {
      await relay.cli(['stop', ...at, '-m', 'immediate']);
    },
  });
  assert.equal((await relay.cli(['start', ...at, '-l', relay.log.file])).code, 0);
  const first = (await relay.status()).pid;

  // A second start is refused, and harms nobody.
  const again = await relay.cli(['start', ...at, '-l', relay.log.file]);
  assert.notEqual(again.code, 0);
  assert.match(again.stderr, new RegExp(`is already running \\(PID ${first}\\)`));
  assert.equal((await relay.status()).pid, first);

  assert.equal((await relay.cli(['restart', ...at, '-l', relay.log.file])).code, 0);
  const second = (await relay.status()).pid;
  assert.notEqual(second, first);
  await primary.sql('INSERT INTO load DEFAULT VALUES');
  await relay.waitForWal(await primary.currentLsn());
  assert.equal((await relay.cli(['stop', ...at])).code, 0);
  assert.equal((await relay.cli(['status', ...at])).code, 3);
  const none = await relay.cli(['stop', ...at]);
  assert.notEqual(none.code, 0);
  assert.match(none.stderr, /no node is running/);
});

test('of two processes for one directory the second is refused, naming the first', async (t) => {
  const cluster = await relayedCluster(t);
  const { relay } = cluster;
  const second = await relay.cli(['run', '-D', relay.directory]);
  assert.equal(second.code, 1);
  assert.match(second.stderr, /FATAL: {2}lock file "walcade\.pid" is held/);
  assert.match(second.stderr, new RegExp(`A walcade process \\(PID ${relay.pid}\\) is running`));

  // The first has lost nothing by it, its lock neither.
  assert.equal((await relay.status()).pid, relay.pid);
  assert.equal((await relay.cli(['run', '-D', relay.directory])).code, 1);
  await assertEqual(cluster);
});

test('a stale pid file stops nobody, whatever process has its number now', async (t) => {
  const cluster = await relayedCluster(t);
  const { relay } = cluster;
  const file = join(relay.directory, 'walcade.pid');
  await relay.kill9();
  assert.match(await readFile(file, 'utf8'), /^\d+\n/);
  await relay.start();
  await relay.stop();
  for (const content of [`${process.pid}\n1\n5432\nready\n`, 'not a number\n', '']) {
    await writeFile(file, content);
    assert.equal((await relay.cli(['status', '-D', relay.directory])).code, 3);
    await relay.start();
    assert.equal((await readFile(file, 'utf8')).split('\n')[0], String(relay.pid));
    await relay.stop();
  }
  await relay.start();
  await assertEqual(cluster);
});

test('a start reads the store from its last record on, however much there is before', async (t) => {
  const { tree, primary, relay } = await relayedCluster(t);
  for (let message = 0; message < 20; message++) await primary.sql(largeMessage(3_000_000));
  await primary.sql('INSERT INTO load DEFAULT VALUES');
  const end = await primary.currentLsn();
  await relay.waitForWal(end);
  await relay.stop();
  const segments = await listSegments(relay.directory);
  assert.ok(segments.length > 50, `${segments.length} segments`);

  // On a disk that counts: also after a crash it is little.
  const disk = await TestDisk.load(relay.directory);
  const node = new InProcessNode(tree, relay.directory);
  await node.start({ disk });
  const afterStop = disk.bytesRead;
  assert.ok(parseLsn((await relay.status()).positions.received) >= end);
  await node.cutPower();
  const found = disk.afterPowerCut(() => true);
  await node.start({ disk: found });
  await node.stop();
  for (const bytes of [afterStop, found.bytesRead]) {
    assert.ok(bytes < 3 * SEGMENT_BYTES, `${bytes} bytes were read`);
  }
});
