/**
 * Which directory is used for what can be made again, and which is not.
 */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, realpath, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type TestContext, describe, test } from 'node:test';
import { type CacheOwner, cacheDirectories, withCacheDirectory } from './cache-directory.ts';

async function temporaryDirectory(t: TestContext): Promise<string> {
  const directory = await realpath(await mkdtemp(join(tmpdir(), 'walcade-cache-')));
  t.after(() => rm(directory, { recursive: true }));
  return directory;
}

const CHOICES: [claim: string, uid: number, environment: CacheOwner['environment'], string[]][] = [
  [
    "root has the system's, whatever the environment says",
    0,
    { HOME: '/h', XDG_CACHE_HOME: '/c' },
    ['/var/cache/walcade', '/tmp/walcade-0'],
  ],
  [
    'an ordinary user has one below his home',
    1000,
    { HOME: '/h' },
    ['/h/.cache/walcade', '/tmp/walcade-1000'],
  ],
  [
    'XDG_CACHE_HOME goes before the home',
    1000,
    { HOME: '/h', XDG_CACHE_HOME: '/c' },
    ['/c/walcade', '/tmp/walcade-1000'],
  ],
  [
    'a relative XDG_CACHE_HOME is passed over',
    1000,
    { HOME: '/h', XDG_CACHE_HOME: 'c' },
    ['/h/.cache/walcade', '/tmp/walcade-1000'],
  ],
  ['without a home there is the temporary directory', 1000, {}, ['/tmp/walcade-1000']],
];

describe('the choice of a cache directory', () => {
  for (const [claim, uid, environment, expected] of CHOICES) {
    test(claim, () => {
      const owner = { uid, environment, temporaryDirectory: '/tmp' };
      assert.deepEqual(cacheDirectories(owner), expected);
    });
  }

  test('the first is made, with those above it, for everybody to enter', async (t) => {
    const directory = join(await temporaryDirectory(t), 'cache', 'walcade');
    const used = await withCacheDirectory([directory, '/nowhere'], async (path) => path);
    assert.equal(used, directory);
    assert.equal((await stat(directory)).mode & 0o777, 0o755);
  });

  test('one that cannot be made is passed over for the next', async (t) => {
    const directory = await temporaryDirectory(t);
    await writeFile(join(directory, 'file'), '');
    const directories = [join(directory, 'file', 'walcade'), join(directory, 'next')];
    const used = await withCacheDirectory(directories, async (path) => path);
    assert.equal(used, join(directory, 'next'));
  });

  test('when none can be made, the error names the last', async (t) => {
    const directory = await temporaryDirectory(t);
    await writeFile(join(directory, 'file'), '');
    const directories = ['a', 'b'].map((name) => join(directory, 'file', name));
    await assert.rejects(
      withCacheDirectory(directories, async (path) => path),
      {
        sqlstate: '58030',
        message: `could not write to directory "${directories[1]}": Not a directory`,
      },
    );
  });

  test('a full disk is an error, and no reason to fill the next', async (t) => {
    const directory = await temporaryDirectory(t);
    const full = async (): Promise<void> => {
      throw Object.assign(new Error('full'), { code: 'ENOSPC' });
    };
    await assert.rejects(withCacheDirectory([join(directory, 'a'), join(directory, 'b')], full), {
      sqlstate: '53100',
    });
  });

  test('one that others can write is refused', async (t) => {
    const directory = join(await temporaryDirectory(t), 'walcade');
    await mkdir(directory);
    await chmod(directory, 0o775);
    await assert.rejects(
      withCacheDirectory([directory, '/nowhere'], async (path) => path),
      { sqlstate: '42501', message: `cannot trust directory "${directory}"` },
    );
  });

  test('a link is followed to where it is used', async (t) => {
    const directory = await temporaryDirectory(t);
    await mkdir(join(directory, 'larger'), { mode: 0o755 });
    await symlink('larger', join(directory, 'walcade'));
    const used = await withCacheDirectory([join(directory, 'walcade')], async (path) => path);
    assert.equal(used, join(directory, 'larger'));
  });
});
