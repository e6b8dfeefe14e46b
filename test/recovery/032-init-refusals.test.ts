/**
 * Everything that can be wrong with `walcade init --with-postgres` before a backup is taken: each
 * is one message with what to do about it, and leaves nothing half made, here or upstream.
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import * as fs from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { promisify } from 'node:util';
import {
  type Refusal,
  assertDone,
  assertRefused,
  initNode,
  walcade,
} from '../harness/command-line.ts';
import { makeTablespace } from '../harness/number-cluster.ts';
import { findPostgres, postgresUser, testedMajor } from '../harness/postgres-binaries.ts';
import { PostgresCluster, type Settings } from '../harness/postgres-cluster.ts';
import { findTools } from '../harness/postgres-tools.ts';
import { TestDirectory } from '../harness/test-directory.ts';

const run = promisify(execFile);

test('options that do not go together are mistakes in the use of init', async (t) => {
  const tree = await TestDirectory.create(t);
  const cases: [string[], RegExp][] = [
    [['--postgres-bin', '/usr/bin'], /^--postgres-bin needs --with-postgres$/],
    [['--tablespace-mapping', '/a=/b'], /^--tablespace-mapping needs --with-postgres$/],
    [['--keep'], /^--keep needs --with-postgres$/],
    [
      ['--with-postgres', '--start-lsn', '0/2000000'],
      /^--start-lsn cannot be used with --with-postgres$/,
    ],
    [['--with-postgres', '--tablespace-mapping', '/a'], /It must be of the form OLD=NEW\.$/],
    [['--with-postgres', '--tablespace-mapping', '/a=/b=/c'], /It must be of the form OLD=NEW\.$/],
    [['--with-postgres', '--tablespace-mapping', 'a=/b'], /Both directories must be absolute/],
    [['--with-postgres', '--tablespace-mapping', '/a=b'], /Both directories must be absolute/],
    [['--with-postgres', '--tablespace-mapping', '='], /Both directories must be absolute/],
  ];
  for (const [args, message] of cases) {
    const hint = /^Try "walcade init --help"\.$/;
    const refusal = { status: 2, message, hint };
    assertRefused(await initNode(tree, 'host=127.0.0.1', ...args), refusal);
  }
  assert.deepEqual(await fs.readdir(tree.path), []);
});

test('init looks for the programs of the upstream before it asks for a backup', async (t) => {
  const { tree, primary, refuses } = await primaryToInitFrom(t);
  const major = testedMajor();
  const hint = new RegExp(
    `^Install PostgreSQL ${major}, or name its directory with --postgres-bin`,
  );
  const empty = await tree.makeDirectory('empty');
  const message = new RegExp(`^could not find PostgreSQL ${major} in directory`);
  await refuses(['--postgres-bin', 'empty'], {
    message: new RegExp(`${message.source} "${empty}"$`),
    detail: new RegExp(`^"${empty}" has no program "postgres"\\.$`, 'm'),
    hint,
  });
  await refuses(['--postgres-bin', 'missing'], {
    message,
    detail: /missing" has no program "postgres"\.$/m,
    hint,
  });

  // What is called postgres and is none, or does not run.
  const program = join(empty, 'postgres');
  await fs.writeFile(program, '#!/bin/sh\necho "postgres (Postgres-like) 1.0"\n', { mode: 0o755 });
  await refuses(['--postgres-bin', 'empty'], {
    message,
    detail: /has a program "postgres" that says "postgres \(Postgres-like\) 1\.0"\.$/m,
    hint,
  });
  await fs.chmod(program, 0o644);
  await refuses(['--postgres-bin', 'empty'], {
    message,
    detail: /cannot reach or run: Permission denied\.$/m,
    hint,
  });

  // Those of another major.
  const tools = await findTools([]);
  if (tools === undefined || tools.major === major) {
    t.diagnostic('this machine has no other PostgreSQL: another major was not shown');
  } else {
    const bin = dirname(tools.binaries.postgres);
    await refuses(['--postgres-bin', bin], {
      message,
      detail: new RegExp(`^"${bin}" has PostgreSQL ${tools.major}\\.\\S+\\.$`, 'm'),
      hint,
    });
  }
  assert.doesNotMatch(await primary.log.text(), /BASE_BACKUP|CREATE_REPLICATION_SLOT/);
});

test('init takes no place that is taken, and says how to have tablespaces elsewhere', async (t) => {
  const { tree, primary, bin, refuses } = await primaryToInitFrom(t);
  const there = await makeTablespace({ tree, primary }, 'first');
  const second = await makeTablespace({ tree, primary }, 'second');
  const map = (...pairs: [string, string][]): string[] =>
    pairs.flatMap(([from, to]) => ['--tablespace-mapping', `${from}=${to}`]);
  const elsewhere = (location: string): RegExp =>
    new RegExp(`^Use --tablespace-mapping "${location}=DIRECTORY" to put it elsewhere\\.$`);
  const places = await tree.makeDirectory('places');
  const a = join(places, 'a');
  const b = join(places, 'b');

  // On the machine of the primary its tablespaces are in the way.
  await refuses([...bin], {
    message: new RegExp(`^directory "${there}" exists but is not empty$`),
    detail: new RegExp(`^The tablespace that the server has at "${there}" is to go there\\.$`, 'm'),
    hint: elsewhere(there),
  });
  await refuses([...bin, ...map([there, a])], {
    message: new RegExp(`^directory "${second}" exists but is not empty$`),
    hint: elsewhere(second),
  });

  const cases: [[string, string][], Refusal][] = [
    [
      [[join(tree.path, 'none'), a]],
      {
        message: /^tablespace mapping names ".*none", where the server has no tablespace$/,
        detail: new RegExp(`^The server has tablespaces at "${there}", "${second}"\\.$`, 'm'),
      },
    ],
    [
      [
        [there, a],
        [second, a],
      ],
      {
        message: new RegExp(`^directory "${a}" is to hold two parts of the base backup$`),
        detail: /^The tablespace .*first" and the tablespace .*second" go there\.$/m,
        hint: elsewhere(there),
      },
    ],
    [
      [
        [there, a],
        [second, join(tree.path, 'node/data/pg_wal')],
      ],
      { message: /^directory ".*node\/data" does not exist$/, hint: elsewhere(second) },
    ],
    [
      [
        [there, a],
        [second, join(tree.path, 'node/data')],
      ],
      {
        message: /^directory ".*node\/data" is to hold two parts of the base backup$/,
        hint: elsewhere(second),
      },
    ],
    [
      [
        [there, a],
        [second, join(places, 'no/such')],
      ],
      {
        message: new RegExp(`^directory "${places}/no" does not exist$`),
        detail: /second" is to be made in it\.$/m,
        hint: elsewhere(second),
      },
    ],
    [
      [
        [there, a],
        [second, join(tree.path, 'primary.log')],
      ],
      { message: /^".*primary\.log" exists but is not a directory$/, hint: elsewhere(second) },
    ],
  ];
  for (const [pairs, refusal] of cases) {
    await refuses([...bin, ...map(...pairs)], refusal);
    assert.deepEqual(await fs.readdir(places), []);
  }

  // A directory with something in it, and that of another node, stays as it is.
  await fs.mkdir(join(tree.path, 'node'));
  await fs.writeFile(join(tree.path, 'node', 'precious'), 'mine');
  assertRefused(await initNode(tree, primary.conninfo, '--with-postgres', ...bin), {
    message: /^directory ".*node" exists but is not empty$/,
    hint: /choose another directory with -D/,
  });
  assert.deepEqual(await fs.readdir(join(tree.path, 'node')), ['precious']);
  await fs.rm(join(tree.path, 'node'), { recursive: true });

  // What remains can be made, also in directories that are there and empty.
  await fs.mkdir(b);
  const made = ['--with-postgres', ...bin, ...map([there, a], [second, b])];
  assertDone(await initNode(tree, primary.conninfo, ...made));
  for (const place of [a, b]) {
    assert.equal((await fs.readdir(place)).length, 1);
    assert.equal((await fs.stat(place)).uid, (await postgresUser())?.uid ?? process.getuid?.());
  }
  const removed = assertDone(await walcade(['remove', '-D', 'node', '--yes'], tree.path));
  assert.match(removed, new RegExp(`; its data is left in "${a}", "${b}"$|"${b}", "${a}"$`, 'm'));
});

test('init asks for the room before it writes', async (t) => {
  const { tree, primary, bin } = await primaryToInitFrom(t);
  if (process.getuid?.() !== 0 || process.platform !== 'linux') {
    t.diagnostic('a small file system can be made by root on Linux only');
    return;
  }
  const small = await tree.makeDirectory('small');
  await run('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'walcade-test', small]);
  try {
    const where = ['-D', join(small, 'node'), '--upstream', primary.conninfo];
    assertRefused(await walcade(['init', ...where, '--with-postgres', ...bin], tree.path), {
      message: /^no room for a base backup of \d+ MB in ".*small\/node\/data"$/,
      detail: /^The file system has 8\d{3} kB free\.$/m,
      hint: /^Free space, or /,
    });
    assert.deepEqual(await fs.readdir(small), []);
    assert.equal(await slotsOf(primary), '');
  } finally {
    await run('umount', [small]);
  }
});

test('init says what a server has to have for a backup and a node', async (t) => {
  const { primary, bin, refuses } = await primaryToInitFrom(t, { max_wal_senders: 1 });

  // One connection is let in, the second is for the backup.
  await refuses(bin, {
    message: /^connection to .* failed: .*requested standby connections exceeds "?max_wal_senders/,
    hint: /^Raise max_wal_senders on that server/,
  });

  await primary.sql('CREATE ROLE reader LOGIN');
  await refuses(
    bin,
    { message: /permission denied|must be superuser or replication role/, hint: /REPLICATION/ },
    'reader',
  );

  await primary.configure({ max_wal_senders: 10, max_replication_slots: 0 });
  await primary.restart();
  await refuses(bin, {
    message: /replication slots can only be used if max_replication|all replication slots are in/,
  });

  await primary.configure({ max_wal_senders: 0, wal_level: 'minimal' });
  await primary.restart();
  const minimal = {
    message: /exceeds "?max_wal_senders"? \(currently 0\)/,
    hint: /with wal_level = minimal it can only be 0/,
  };
  await refuses(bin, minimal);
});

/** A running primary, and how init of a node from it is refused with nothing left. */
async function primaryToInitFrom(t: TestContext, settings: Settings = {}) {
  const tree = await TestDirectory.create(t);
  const primary = await PostgresCluster.init(tree, { name: 'primary', settings });
  await primary.start();
  const bin = ['--postgres-bin', dirname((await findPostgres()).postgres)];
  const refuses = async (
    args: readonly string[],
    refusal: Refusal,
    user = 'postgres',
  ): Promise<void> => {
    const conninfo = `host=127.0.0.1 port=${primary.port} user=${user}`;
    assertRefused(await initNode(tree, conninfo, '--with-postgres', ...args), refusal);
    assert.equal(existsSync(join(tree.path, 'node')), false, args.join(' '));
    assert.equal(await slotsOf(primary), '', args.join(' '));
  };
  return { tree, primary, bin, refuses };
}

function slotsOf(primary: PostgresCluster): Promise<string> {
  return primary.sql('SELECT string_agg(slot_name, $$,$$) FROM pg_replication_slots');
}
