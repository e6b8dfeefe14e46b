/**
 * PostgreSQL from an npm package: found by its description, run from a copy of its own. The
 * packages here have the layout of the real ones, with next to nothing in them.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import * as fs from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { type EmbeddedPackage, findEmbeddedPackage, makeRunnable } from './embedded-package.ts';

const run = promisify(execFile);

const FILES: Record<string, string> = {
  'dist/index.js': '',
  'native/bin/postgres': '#!/bin/sh\ncat "$(dirname "$0")/../lib/libpq.so.5"\n',
  'native/lib/libpq.so.5.18': 'the library\n',
  'native/share/postgresql/timezone/UTC': 'TZif2',
  'native/pg-symlinks.json': JSON.stringify([
    { source: 'native/lib/libpq.so.5.18', target: 'native/lib/libpq.so.5' },
  ]),
};

/** A place with package `fake` installed, described by `description`, and a cache. */
async function install(
  t: TestContext,
  description: object = { version: '18.4.0-beta.17' },
): Promise<{ from: string; cache: string }> {
  const root = await fs.mkdtemp(join(tmpdir(), 'walcade-package-'));
  t.after(() => fs.rm(root, { recursive: true }));
  const directory = join(root, 'node_modules', 'fake');
  for (const [path, text] of Object.entries(FILES)) {
    await fs.mkdir(join(directory, path, '..'), { recursive: true });
    await fs.writeFile(join(directory, path), text, { mode: 0o600 });
  }
  const json = { name: 'fake', exports: './dist/index.js', ...description };
  await fs.writeFile(join(directory, 'package.json'), JSON.stringify(json));
  return { from: pathToFileURL(join(root, 'package.json')).href, cache: join(root, 'cache') };
}

async function installed(t: TestContext): Promise<{ found: EmbeddedPackage; cache: string }> {
  const { from, cache } = await install(t);
  const found = await findEmbeddedPackage('fake', from);
  assert.ok(found);
  return { found, cache };
}

describe('a package with PostgreSQL', () => {
  test("its version is PostgreSQL's, as far as PostgreSQL counts", async (t) => {
    const { found } = await installed(t);
    const { packageVersion, version, major } = found;
    assert.deepEqual([packageVersion, version, major], ['18.4.0-beta.17', '18.4', 18]);
  });

  test('that it is not installed is no error', async (t) => {
    const { from } = await install(t);
    assert.equal(await findEmbeddedPackage('other', from), undefined);
  });

  test('a description without a version is refused', async (t) => {
    for (const description of [{}, { version: '../18' }, { version: 18 }]) {
      const { from } = await install(t, description);
      await assert.rejects(findEmbeddedPackage('fake', from), { sqlstate: 'XX001' });
    }
  });
});

describe('the copy that is run', () => {
  test('it has the links, and everybody can run it', async (t) => {
    const { found, cache } = await installed(t);
    const bin = await makeRunnable(found, [cache]);
    assert.equal((await run(join(bin, 'postgres'))).stdout, 'the library\n');
    const modes = ['', 'bin', 'bin/postgres', 'share/postgresql/timezone/UTC'].map(
      async (path) => (await fs.stat(join(bin, '..', path))).mode & 0o777,
    );
    assert.deepEqual(await Promise.all(modes), [0o755, 0o755, 0o755, 0o644]);
  });

  test('many may make it at once, and leave one', async (t) => {
    const { found, cache } = await installed(t);
    const made = await Promise.all(Array.from({ length: 8 }, () => makeRunnable(found, [cache])));
    assert.equal(new Set(made).size, 1);
    assert.equal((await fs.readdir(cache)).length, 1);
  });

  test('a complete one is left alone', async (t) => {
    const { found, cache } = await installed(t);
    const copy = join(await makeRunnable(found, [cache]), '..');
    const { ino } = await fs.stat(copy);
    await makeRunnable(found, [cache]);
    assert.equal((await fs.stat(copy)).ino, ino);
  });

  for (const path of ['share/postgresql/timezone/UTC', 'lib/libpq.so.5', 'bin']) {
    test(`one without ${path} is replaced, by any number at once`, async (t) => {
      const { found, cache } = await installed(t);
      const copy = join(await makeRunnable(found, [cache]), '..');
      await fs.rm(join(copy, path), { recursive: true });
      await Promise.all(Array.from({ length: 8 }, () => makeRunnable(found, [cache])));
      await fs.stat(join(copy, path));
      assert.equal((await fs.readdir(cache)).length, 1);
    });
  }

  test('one with a file cut short is replaced', async (t) => {
    const { found, cache } = await installed(t);
    const bin = await makeRunnable(found, [cache]);
    await fs.truncate(join(bin, '../lib/libpq.so.5.18'), 3);
    await makeRunnable(found, [cache]);
    assert.equal((await run(join(bin, 'postgres'))).stdout, 'the library\n');
  });

  test('one that others can write is not run', async (t) => {
    const { found, cache } = await installed(t);
    const copy = join(await makeRunnable(found, [cache]), '..');
    await fs.chmod(copy, 0o777);
    await assert.rejects(makeRunnable(found, [cache]), { sqlstate: '42501' });
  });
});
