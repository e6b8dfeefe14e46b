/** Directives that lead to something, and those that lead to nothing. */
import assert from 'node:assert/strict';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { withoutMissingIncludes } from './conf-includes.ts';

const COMMENTED = '  # not on this machine';

test('a directive that leads to nothing is commented out, however it is written', async (t) => {
  const missing = [
    `include '/nowhere/a.conf'`,
    `  INCLUDE = 'a.conf' # of the primary`,
    'include a.conf',
    'include=sub/a.conf',
    `include'it''s\\'.conf'`,
    `include_dir 'nowhere'`,
    'Include_Dir = nowhere',
  ];
  const harmless = [
    '',
    `#include 'a.conf'`,
    `include_if_exists 'a.conf'`,
    `includes = 'a.conf'`,
    `my.include = 'a.conf'`,
    `include 'own.conf'`,
    `include_dir 'conf.d'`,
    'include',
    "include 'open",
    `port = 5432 include 'a.conf'`,
  ];
  const data = await directoryWith(t, {
    'postgresql.conf': [...missing, ...harmless].join('\n'),
    'own.conf': '',
    'conf.d/one.conf': '',
  });
  assert.deepEqual(await changesIn(data), {
    'postgresql.conf': [...missing.map((line) => `#${line}${COMMENTED}`), ...harmless].join('\n'),
  });
});

test('included files are looked through too, once, relative to where they are', async (t) => {
  const data = await directoryWith(t, {
    'postgresql.conf': `include 'conf.d/one.conf'\ninclude_dir 'conf.d'\n`,
    'conf.d/one.conf': `include 'two.conf'\ninclude '../postgresql.conf'\n`,
    'conf.d/two.conf': `port = 1\ninclude 'conf.d/one.conf'\n`,
    'conf.d/.hidden.conf': `include 'nowhere'\n`,
    'conf.d/other.txt': `include 'nowhere'\n`,
  });
  assert.deepEqual(await changesIn(data), {
    'two.conf': `port = 1\n#include 'conf.d/one.conf'${COMMENTED}\n`,
  });
});

test('a file that is not in the data directory is left as it is', async (t) => {
  const outside = await directoryWith(t, { 'outside.conf': `include 'nowhere'\n` });
  const data = await directoryWith(t, {
    'postgresql.conf': `include '${join(outside, 'outside.conf')}'\ninclude 'link.conf'\n`,
  });
  await symlink(join(outside, 'outside.conf'), join(data, 'link.conf'));
  assert.deepEqual(await changesIn(data), {});
});

test('bytes that are no UTF-8 stay, and names in UTF-8 are found', async (t) => {
  const text = Buffer.from(`# \xe4\ninclude 'nowhere'\ninclude '\xc3\xa4.conf'\n`, 'latin1');
  const data = await directoryWith(t, { 'postgresql.conf': text, 'ä.conf': '' });
  const changes = await withoutMissingIncludes(join(data, 'postgresql.conf'), data);
  const wanted = `# \xe4\n#include 'nowhere'${COMMENTED}\ninclude '\xc3\xa4.conf'\n`;
  assert.deepEqual([...changes.values()], [Buffer.from(wanted, 'latin1')]);
});

async function changesIn(data: string): Promise<Record<string, string>> {
  const changes = await withoutMissingIncludes(join(data, 'postgresql.conf'), data);
  const texts = [...changes].map(([path, text]) => [basename(path), text.toString()]);
  return Object.fromEntries(texts) as Record<string, string>;
}

async function directoryWith(
  t: TestContext,
  files: Record<string, string | Buffer>,
): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'conf-includes-'));
  t.after(() => rm(directory, { recursive: true }));
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(directory, name)), { recursive: true });
    await writeFile(join(directory, name), content);
  }
  return directory;
}
