/** Directories that a node is to be made in: whose they are, and what is left of them. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { chown, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { systemClock as clock } from '../base/clock.ts';
import { systemDisk as disk } from '../base/disk.ts';
import { ClaimedDirectory } from './claimed-directory.ts';

const claim = (path: string, ...mayHold: string[]): Promise<ClaimedDirectory> =>
  ClaimedDirectory.claim(path, { mayHold, disk, clock });

const NOT_EMPTY = { sqlstate: '58P02', message: /exists but is not empty$/ };

test('what was written goes, with the directory if that was made; the rest stays', async (t) => {
  const parent = await makeDirectory(t);
  const made = join(parent, 'made');
  const there = join(parent, 'there');
  await mkdir(join(there, 'data'), { recursive: true });
  for (const path of [made, there]) {
    const claimed = await claim(path, 'data');
    await mkdir(join(path, 'pg_wal/deep'), { recursive: true });
    await writeFile(join(path, 'walcade.conf'), '');
    await claimed.abandon({ keep: ['data'] });
  }
  assert.equal(existsSync(made), false);
  assert.deepEqual(await readdir(there), ['data']);

  // What is kept keeps the directory as well.
  const claimed = await claim(made);
  await mkdir(join(made, 'data'));
  await claimed.abandon({ keep: ['data'] });
  assert.deepEqual(await readdir(made), ['data']);
});

// Its owner could have root write into any file, by a link in the place of one of the node's.
test("as root a directory of another user becomes root's, and his again on failure", async (t) => {
  if (process.geteuid?.() !== 0) return t.diagnostic('not tested: this is not root');
  const directory = join(await makeDirectory(t), 'node');
  await mkdir(directory);
  await chown(directory, 65_534, 65_534);
  const first = await claim(directory);
  assert.equal((await stat(directory)).uid, 0);
  await first.abandon({ keep: [] });
  assert.equal((await stat(directory)).uid, 65_534);
  const second = await claim(directory);
  await second.release();
  assert.equal((await stat(directory)).uid, 0);
});

test('of two that claim one directory the second touches nothing', async (t) => {
  // Both found it empty, and the one that failed emptied it under the other.
  const directory = join(await makeDirectory(t), 'node');
  const first = await claim(directory);
  const refusal = {
    sqlstate: 'F0001',
    message: `a node is being made in directory "${directory}" by another process`,
    detail: new RegExp(`A walcade process \\(PID ${process.pid}\\) is running in`),
  };
  await assert.rejects(claim(directory), refusal);
  await mkdir(join(directory, 'data'));
  await assert.rejects(claim(directory), refusal);
  assert.deepEqual(await readdir(directory), ['data', 'walcade.pid']);
  await writeFile(join(directory, 'walcade.control'), '');
  await assert.rejects(claim(directory), NOT_EMPTY);
  await first.release();
  assert.deepEqual(await readdir(directory), ['data', 'walcade.control']);
  await assert.rejects(claim(directory), NOT_EMPTY);
});

test('many that claim one directory at once have it one after the other', async (t) => {
  const directory = join(await makeDirectory(t), 'node');
  let holders = 0;
  const outcomes = await Promise.allSettled(
    Array.from({ length: 20 }, async () => {
      const claimed = await claim(directory);
      holders += 1;
      assert.equal(holders, 1);
      await writeFile(join(directory, 'walcade.conf'), '');
      assert.deepEqual((await readdir(directory)).sort(), ['walcade.conf', 'walcade.pid']);
      holders -= 1;
      await claimed.abandon({ keep: [] });
    }),
  );
  assert.ok(outcomes.some(({ status }) => status === 'fulfilled'));
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected')
      assert.match(`${outcome.reason}`, /another process$|ENOENT|No such/);
  }
  assert.equal(existsSync(directory), false);
});

test('a claim goes with its process, however that ends', async (t) => {
  const directory = join(await makeDirectory(t), 'node');
  const holder = await holdFromElsewhere(t, directory);
  await assert.rejects(claim(directory), {
    sqlstate: 'F0001',
    detail: new RegExp(`\\(PID ${holder.pid}\\)`),
  });
  holder.kill('SIGKILL');
  await once(holder, 'exit');
  assert.deepEqual(await readdir(directory), ['walcade.pid']);
  await (await claim(directory)).abandon({ keep: [] });
});

test('a lock file in a directory that is used otherwise stays', async (t) => {
  const directory = await makeDirectory(t);
  for (const name of ['walcade.pid', 'precious']) await writeFile(join(directory, name), '');
  await assert.rejects(claim(directory), NOT_EMPTY);
  assert.deepEqual(await readdir(directory), ['precious', 'walcade.pid']);
});

test('what the file system answers is told, and no link is followed', async (t) => {
  const directory = await makeDirectory(t);
  await assert.rejects(claim(join(directory, 'no/node')), {
    sqlstate: '58P01',
    message: `could not create directory "${directory}/no/node": No such file or directory`,
    hint: /^The directory above it must exist/,
  });
  await writeFile(join(directory, 'file'), '');
  await assert.rejects(claim(join(directory, 'file')), {
    message: `could not read directory "${directory}/file": Not a directory`,
  });
  const node = join(directory, 'node');
  await mkdir(node);
  await symlink(join(directory, 'target'), join(node, 'walcade.pid'));
  await assert.rejects(claim(node), {
    message: `could not create lock file "${node}/walcade.pid": Too many levels of symbolic links`,
  });
  assert.equal(existsSync(join(directory, 'target')), false);
});

test('the name of the directory is durable before anything depends on it', async (t) => {
  const parent = await makeDirectory(t);
  const synced: string[] = [];
  const watched = {
    ...disk,
    syncDirectory: async (path: string): Promise<void> => {
      synced.push(path);
    },
  };
  await ClaimedDirectory.claim(join(parent, 'node'), { mayHold: [], disk: watched, clock });
  assert.deepEqual(synced, [parent]);
});

test('a directory whose name cannot be made durable is not left', async (t) => {
  const parent = await makeDirectory(t);
  const failing = {
    ...disk,
    syncDirectory: async (): Promise<void> => {
      throw Object.assign(new Error('EIO'), { code: 'EIO' });
    },
  };
  await assert.rejects(
    ClaimedDirectory.claim(join(parent, 'node'), { mayHold: [], disk: failing, clock }),
    { sqlstate: '58030', message: `could not fsync directory "${parent}": Input/output error` },
  );
  assert.deepEqual(await readdir(parent), []);
});

async function makeDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'walcade-'));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

/** A process that has claimed `directory` and keeps it. */
async function holdFromElsewhere(t: TestContext, directory: string): Promise<ChildProcess> {
  const url = (name: string): string => JSON.stringify(new URL(name, import.meta.url).href);
  const code = `
    const { ClaimedDirectory } = await import(${url('./claimed-directory.ts')});
    const { systemClock: clock } = await import(${url('../base/clock.ts')});
    const { systemDisk: disk } = await import(${url('../base/disk.ts')});
    await ClaimedDirectory.claim(${JSON.stringify(directory)}, { mayHold: [], disk, clock });
    process.stdout.write('claimed');
    setInterval(() => {}, 60_000);
  `;
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  t.after(() => child.kill('SIGKILL'));
  await once(child.stdout, 'data');
  return child;
}
