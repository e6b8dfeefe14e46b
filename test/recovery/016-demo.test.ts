/**
 * `npm run demo` as a newcomer runs it: what it shows is true, and nothing is left behind.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { TestDirectory } from '../harness/test-directory.ts';
import { waitFor } from '../harness/wait.ts';

const run = promisify(execFile);

const ROOT = fileURLToPath(new URL('../..', import.meta.url));

test('the demo shows a row on all slaves, who sends to whom, and a promotion', async (t) => {
  const tree = await TestDirectory.create(t);
  const basePort = await reservePorts(tree);
  const demo = runDemo(tree, ['--once', '--base-port', String(basePort)]);
  assert.equal(await demo.ended, 0, demo.said());
  const said = demo.said();
  for (const [index, slave] of ['slave', 'slave2', 'slave3'].entries()) {
    const select = (value: number): RegExp => {
      const answer = `select x from i where x = ${value} → ${value}`;
      const line = `✓ ${slave}, on port ${basePort + 1 + index}: ${answer}`;
      return new RegExp(`^${line} +\\d+\\.\\d ms$`, 'm');
    };
    assert.match(said, select(123));
    if (slave !== 'slave') assert.match(said, select(456));
  }
  assert.match(said, /^✓ nobody reconnected/m);

  // The tree has every server below the one it receives from, all at one position.
  const position = /WAL sender to slave +streaming +([0-9A-F]+\/[0-9A-F]+)$/m.exec(said)?.[1];
  const node = 'port \\d+ +walcade, PostgreSQL \\d+\\.\\d+';
  const at = (what: string, state: string): string => `${what} +${state} +${position}`;
  const lines = [
    'master +port \\d+ +PostgreSQL \\d+\\.\\d+',
    at('│ +WAL sender to slave', 'streaming'),
    `└─ slave +${node}`,
    at('   │ +WAL receiver', 'streaming'),
    at('   │ +WAL sender to slave2', 'streaming'),
    at('   │ +WAL sender to slave3', 'streaming'),
    at('   │ +hot standby', 'ready'),
    `   ├─ slave2 +${node}`,
    at('   │ +WAL receiver', 'streaming'),
    at('   │ +hot standby', 'ready'),
    `   └─ slave3 +${node}`,
    at(' +WAL receiver', 'streaming'),
    at(' +hot standby', 'ready'),
  ].map((line) => `^${line}$`);
  assert.match(said, new RegExp(lines.join('\n'), 'm'));
  const wide = said.split('\n').filter((line) => line.length > 80 && !line.includes(tree.path));
  assert.deepEqual(wide, []);
  assert.deepEqual(await leftovers(tree), []);
});

test('a signal ends the demo at any time with nothing left behind', async (t) => {
  const tree = await TestDirectory.create(t);

  // In the middle of initdb, of a base backup and of a node's start.
  const moments = [/^A master/m, /walcade init -D slave /, /walcade start -D slave$/m];
  await Promise.all(
    moments.map(async (moment, index) => {
      const demo = runDemo(tree, ['--once', '--base-port', String(await reservePorts(tree))]);
      await waitFor(`the demo to say ${moment}`, () => moment.test(demo.said()));
      demo.child.kill(index === 0 ? 'SIGINT' : 'SIGTERM');
      assert.equal(await demo.ended, 1, demo.said());
      assert.doesNotMatch(demo.said(), /error/);
    }),
  );
  assert.deepEqual(await leftovers(tree), []);

  // When all is shown it waits for nothing else. What it is told to keep, it keeps.
  const complete = runDemo(tree, ['--keep', '--base-port', String(await reservePorts(tree))]);
  await waitFor('the demo to wait', () => complete.said().includes('Ctrl-C ends the demo.'));
  complete.child.kill('SIGHUP');
  assert.equal(await complete.ended, 0, complete.said());
  const [kept = '', ...processes] = await leftovers(tree);
  assert.deepEqual(processes, []);
  assert.match(complete.said(), new RegExp(`everything is left in .*${kept}$`, 'm'));
  const servers = (await readdir(join(tree.path, kept))).filter((name) => !name.includes('.'));
  assert.deepEqual(servers.sort(), ['master', 'slave', 'slave2', 'slave3']);
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
  assert.match(wrong.said(), /--base-port must be a number from 1 to 65532/);
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

/** The first of four free ports in a row. */
async function reservePorts(tree: TestDirectory): Promise<number> {
  return waitFor('four free ports in a row', async () => {
    const first = await tree.reservePort();
    const free = await Promise.all([1, 2, 3].map((step) => isFree(first + step)));
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

/**
 * Directories of demos, and the processes that have the test's directory in their arguments or,
 * as a node started from there has, in their environment.
 */
async function leftovers(tree: TestDirectory): Promise<string[]> {
  const directories = (await readdir(tree.path)).filter((name) => name.startsWith('walcade-demo-'));
  const { stdout } = await run('ps', ['axeww', '-o', 'args=']);
  const processes = stdout.split('\n').filter((line) => line.includes(tree.path));
  return [...directories, ...processes];
}
