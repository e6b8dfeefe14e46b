/**
 * `walcade timelines` over a tree that real promotions made: an old primary that went on past the
 * fork, and two of its standbys, promoted one before and one after what it wrote then.
 */
import assert from 'node:assert/strict';
import * as fs from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import { formatLsn, parseLsn } from '../../src/wal/lsn.ts';
import { assertDone, assertRefused, walcade } from '../harness/command-line.ts';
import { type NumberCluster, numberCluster } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const REASON = 'no recovery target specified';
const NAME = '[0-9A-F]{24}';
const SEGMENTS = `\\d+ segments? \\(\\d+ [kM]B\\): ${NAME}(?: to ${NAME})?`;

interface TimelinesJson {
  state: string;
  timeline: number;
  timelines: {
    timeline: number;
    role: string;
    parent: number | null;
    forkedAt: string | null;
    reason: string | null;
    leftAt: string | null;
    walEnd: string | null;
    segments: { first: string; count: number } | null;
  }[];
  problems: { message: string }[];
}

test('the timelines of a node are a tree: which is current, which forked where', async (t) => {
  const { tree, primary } = await numberCluster(t);
  const node = await WalcadeNode.init(tree, { name: 'node', upstream: primary.conninfo });
  await node.start();
  await node.waitForWal(await primary.currentLsn());
  const run = (...args: string[]) => walcade(['timelines', '-D', 'node', ...args], tree.path);
  const json = async () => JSON.parse(assertDone(await run('--json'))) as TimelinesJson;

  // One timeline, while the node runs.
  const one = assertDone(await run());
  assert.match(one, new RegExp(`^\\*  timeline 1, current\n     ${SEGMENTS}\n`));
  assert.match(one, /^ {5}flushed to [0-9A-F]+\/[0-9A-F]+, and more as the node runs$/m);
  assert.equal((await json()).state, 'running');

  // A standby is promoted, and the old primary goes on, with the node behind it.
  const second = await standbyOf({ tree, primary }, 'second');
  const third = await standbyOf({ tree, primary }, 'third');
  await primary.sql('INSERT INTO number VALUES (1)');
  await second.waitForCatchup(primary);
  await second.promote();
  const fork = await forkOf(second, 2);
  await primary.sql('INSERT INTO number VALUES (2)');
  const deadEnd = await primary.currentLsn();
  await node.waitForWal(deadEnd);

  // The node goes over to the promoted one: what it has past the fork becomes a branch.
  node.expectLog(
    /WARNING: {2}\[WAL receiver\] the upstream's history forked off timeline 1 before/,
  );
  await second.sql('CREATE TABLE letter (value text)');
  await node.configure({ primary_conninfo: second.conninfo, primary_slot_name: '' });
  node.reload();
  const received = await second.currentLsn();
  await node.waitForWal(received);

  // The standby that was left with the old primary is promoted as well, as timeline 3 since it has
  // seen the history of timeline 2; its history is brought to the node by hand.
  await third.waitForCatchup(primary);
  await copyHistory(second.dataDirectory, third.dataDirectory, 2);
  await third.promote();
  const lateFork = await forkOf(third, 3);
  await node.stop();
  await fs.copyFile(historyPath(third.dataDirectory, 3), historyPath(node.directory, 3));

  const picture = assertDone(await run());
  const flushed = (await json()).timelines[1]?.walEnd ?? '';
  assert.match(
    picture,
    new RegExp(
      `^\\*  timeline 1\n` +
        `\\|    ${SEGMENTS}\n` +
        `\\|\n` +
        `\\|-o  timeline 1, past ${fork}\n` +
        `\\| \\|    holds WAL up to ${formatLsn(deadEnd)} that is not in the current history\n` +
        `\\| \\|\n` +
        `\\| o  timeline 3, forked off timeline 1 at ${lateFork}\n` +
        `\\|      ${REASON}\n` +
        `\\|      no segments kept\n` +
        `\\|\n` +
        `\\*  timeline 2, current, forked off timeline 1 at ${fork}\n` +
        `     ${REASON}\n` +
        `     ${SEGMENTS}\n` +
        `     flushed to ${flushed}\n` +
        `\n` +
        `o  not in the current history\n` +
        `3 timelines, segments of \\d+MB, system \\d+\n$`,
    ),
  );
  const { timelines, state, timeline } = await json();
  assert.deepEqual([state, timeline], ['stopped', 2]);
  assert.ok(parseLsn(flushed) >= received);
  assert.deepEqual(
    timelines.map((each) => [each.timeline, each.role, each.parent, each.forkedAt, each.reason]),
    [
      [1, 'ancestor', null, null, null],
      [2, 'current', 1, fork, REASON],
      [3, 'branch', 1, lateFork, REASON],
    ],
  );
  assert.equal(timelines[0]?.leftAt, fork);
  assert.equal(timelines[0]?.walEnd, formatLsn(deadEnd));
  const names = (await fs.readdir(join(node.directory, 'pg_wal'))).sort();
  for (const { timeline: number, segments } of timelines) {
    const own = names.filter((name) => name.startsWith(`0000000${number}`) && name.length === 24);
    assert.deepEqual([segments?.count ?? 0, segments?.first], [own.length, own[0]]);
  }

  // A damaged history file is named, and the rest is shown all the same.
  await fs.writeFile(historyPath(node.directory, 4), 'nonsense');
  const damaged = await run();
  assert.equal(damaged.status, 1);
  assert.ok(damaged.stdout.includes(`timeline 3, forked off timeline 1 at ${lateFork}`));
  assert.match(damaged.stdout, /^o {2}timeline 4\n {5}history file 00000004.history is damaged$/m);
  assertRefused(
    { ...damaged, stdout: '' },
    {
      message: /^history file "node\/pg_wal\/00000004\.history" is damaged$/,
      detail: /^Reading it gave: syntax error in history file: nonsense\./,
      hint: /^Remove it/,
    },
  );

  // No node, and no command line.
  assertRefused(await walcade(['timelines', '-D', 'primary'], tree.path), {
    message: /^directory "primary" (?:is not a walcade node|does not exist)$/,
  });
  assert.equal((await walcade(['timelines'], tree.path)).status, 2);
});

async function standbyOf({ tree, primary }: NumberCluster, name: string): Promise<PostgresCluster> {
  const standby = await PostgresCluster.standby(tree, {
    name,
    from: await primary.backup(join(tree.path, `${name}-backup`)),
    upstreamConninfo: primary.conninfo,
  });
  await standby.start();
  return standby;
}

/** A history file in the pg_wal of a data directory or node. */
function historyPath(directory: string, timeline: number): string {
  return join(directory, 'pg_wal', `0000000${timeline}.history`);
}

async function copyHistory(from: string, to: string, timeline: number): Promise<void> {
  const path = historyPath(to, timeline);
  await fs.copyFile(historyPath(from, timeline), path);
  const { uid, gid } = await fs.stat(to);
  await fs.chown(path, uid, gid);
}

/** Where `timeline` forked off the one before it, as the server has it. */
async function forkOf(server: PostgresCluster, timeline: number): Promise<string> {
  const lines = (await fs.readFile(historyPath(server.dataDirectory, timeline), 'utf8')).trim();
  const [, switchPoint = ''] = (lines.split('\n').at(-1) ?? '').split('\t');
  return formatLsn(parseLsn(switchPoint));
}
