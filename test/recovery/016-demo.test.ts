/**
 * `npm run demo` as a newcomer runs it: what it shows is true, and nothing is left behind.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const STANDBYS = ['standby1', 'standby2', 'standby3'];

test('the demo shows a row on three standbys behind two relays and leaves nothing', async (t) => {
  const tree = await TestDirectory.create(t);
  const demo = runDemo(tree, ['--once', '--base-port', String(await reservePorts(tree))]);
  assert.equal(await demo.ended, 0, demo.said());
  const said = demo.said();
  for (const standby of STANDBYS) {
    assert.match(said, new RegExp(`^✓ on ${standby}: select x from i → 123 +\\d+\\.\\d ms$`, 'm'));
  }

  // The tree has every server below the one it receives from, all at one position.
  const position = /^primary +port \d+ +PostgreSQL \d+ +([0-9A-F]+\/[0-9A-F]+)$/m.exec(said)?.[1];
  const lines = [
    '└─ relay +port \\d+ +walcade',
    '   ├─ standby1 +port \\d+ +PostgreSQL \\d+',
    '   ├─ standby2 +port \\d+ +PostgreSQL \\d+',
    '   └─ relay2 +port \\d+ +walcade',
    '      └─ standby3 +port \\d+ +PostgreSQL \\d+',
  ].map((line) => `^${line} +streaming +${position}$`);
  assert.match(said, new RegExp(lines.join('\n'), 'm'));
  const wide = said.split('\n').filter((line) => line.length > 80 && !line.includes(tree.path));
  assert.deepEqual(wide, []);
  assert.deepEqual(await demosIn(tree), []);
});

test('a signal ends the demo at any time with nothing left behind', async (t) => {
  const tree = await TestDirectory.create(t);
  const basePort = String(await reservePorts(tree));
  const early = runDemo(tree, ['--base-port', basePort]);
  await waitFor('the demo to have a primary', () => early.said().includes('✓ a PostgreSQL'));
  early.child.kill('SIGINT');
  assert.equal(await early.ended, 1, early.said());
  assert.doesNotMatch(early.said(), /error/);
  assert.deepEqual(await demosIn(tree), []);

  const complete = runDemo(tree, ['--base-port', basePort]);
  await waitFor('the demo to wait', () => complete.said().includes('Ctrl-C ends the demo.'));
  complete.child.kill('SIGTERM');
  assert.equal(await complete.ended, 0, complete.said());
  assert.deepEqual(await demosIn(tree), []);
});

test('the demo says which ports are taken, and how to choose others', async (t) => {
  const tree = await TestDirectory.create(t);
  const basePort = await reservePorts(tree);
  const other = createServer();
  await new Promise<void>((resolve) => other.listen(basePort + 2, '127.0.0.1', resolve));
  t.after(() => other.close());
  const demo = runDemo(tree, ['--once', '--base-port', String(basePort)]);
  assert.equal(await demo.ended, 1);
  assert.match(demo.said(), new RegExp(`^error: port ${basePort + 2} is taken$`, 'm'));
  assert.match(demo.said(), /^HINT: .*--base-port \d+$/m);

  // What is no port is refused as well.
  const wrong = runDemo(tree, ['--base-port', '65535']);
  assert.equal(await wrong.ended, 2);
  assert.match(wrong.said(), /--base-port must be a number from 1 to 65530/);
});

/** Starts the demo with its temporary directory inside the test's. */
function runDemo(tree: TestDirectory, args: readonly string[]) {
  const child = spawn(process.execPath, ['--import', 'tsx', 'demo/demo.ts', ...args], {
    cwd: ROOT,
    env: { ...process.env, NO_COLOR: '1', WALCADE_DEMO_DIRECTORY: tree.path },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (text: Buffer) => (output += text.toString()));
  }
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  tree.add({
    name: 'demo',
    end: async () => {
      child.kill('SIGTERM');
      await ended;
    },
  });
  return { child, ended, said: () => output };
}

/** The first of six free ports in a row. */
async function reservePorts(tree: TestDirectory): Promise<number> {
  return waitFor('six free ports in a row', async () => {
    const first = await tree.reservePort();
    const free = await Promise.all([1, 2, 3, 4, 5].map((step) => isFree(first + step)));
    return free.every(Boolean) ? first : undefined;
  });
}

function isFree(port: number): Promise<boolean> {
  const probe = createServer();
  return new Promise((resolve) => {
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });
}

async function demosIn(tree: TestDirectory): Promise<string[]> {
  return (await readdir(tree.path)).filter((name) => name.startsWith('walcade-demo-'));
}
