/**
 * Promotions in a row, up and down one tree under load: the two nodes at its top lead in turns,
 * each comes back below the other, and whoever stays up keeps the connections of its downstreams.
 * Three of them here; `npm run soak` makes ten.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { numberCluster } from '../harness/number-cluster.ts';
import { PostgresCluster } from '../harness/postgres-cluster.ts';
import type { SqlServer } from '../harness/sql-server.ts';
import { waitFor } from '../harness/wait.ts';
import { WalcadeNode } from '../harness/walcade-node.ts';

const PROMOTIONS = Number(process.env['WALCADE_SOAK_PROMOTIONS'] ?? 3);

test('after promotions in a row all members are equal, and nobody below reconnected', async (t) => {
  const { primary, first, second, third, relay, standbys } = await makeTree(t);
  const members = [third, relay];
  const before = await connections(members, standbys);
  const load = new Load(primary);

  await stopAndPromote(primary, first);
  await load.moveTo(first);
  for (const member of [second, ...members]) await follow(member, first);
  let [leader, next] = [first, second];
  for (let promotion = 2; promotion <= PROMOTIONS; promotion++) {
    await load.waitForRows(20);
    await stopAndPromote(leader, next);
    await load.moveTo(next);
    for (const member of members) await follow(member, next);
    const where = ['--upstream', next.conninfo, '--yes'];
    const rejoined = await leader.cli(['rejoin', '-D', leader.directory, ...where]);
    assert.equal(rejoined.code, 0, rejoined.stderr);
    await leader.start();
    [leader, next] = [next, leader];
  }
  await load.waitForRows(20);
  await load.stop();

  const expected = await leader.dump();
  assert.equal(await leader.sql('SELECT count(*) FROM number'), String(load.committed));
  const followers: SqlServer[] = [next, third, ...standbys];
  for (const follower of followers) {
    await follower.waitForCatchup(leader);
    assert.equal(await follower.dump(), expected, follower.name);
  }
  assert.equal((await leader.status()).timeline, PROMOTIONS + 1);
  assert.deepEqual(await connections(members, standbys), before);
});

/** A primary, three nodes and a relay, and a plain standby below the two that never lead. */
async function makeTree(t: TestContext) {
  const { tree, primary } = await numberCluster(t);
  const node = async (name: string, upstream: string, withPostgres: boolean) => {
    const made = await WalcadeNode.init(tree, { name, upstream, withPostgres });
    await made.start();
    // What a promotion, and an upstream that stops, has them say.
    made.expectLog(/./);
    return made;
  };
  const first = await node('first', primary.conninfo, true);
  const second = await node('second', first.conninfo, true);
  const third = await node('third', first.conninfo, true);
  const relay = await node('relay', first.conninfo, false);
  const from = await primary.backup(join(tree.path, 'backup'));
  const standbys: PostgresCluster[] = [];
  for (const upstream of [third, relay]) {
    const name = `below_${upstream.name}`;
    const upstreamConninfo = upstream.conninfo;
    const standby = await PostgresCluster.standby(tree, { name, from, upstreamConninfo });
    await standby.start();
    standbys.push(standby);
  }
  return { primary, first, second, third, relay, standbys };
}

/** A switchover: the one that leads stops, and whoever is below has all it wrote. */
async function stopAndPromote(
  leader: PostgresCluster | WalcadeNode,
  next: WalcadeNode,
): Promise<void> {
  await leader.stop();
  const promoted = await next.cli(['promote', '-D', next.directory]);
  assert.equal(promoted.code, 0, promoted.stderr);
}

async function follow(node: WalcadeNode, upstream: WalcadeNode): Promise<void> {
  const followed = await node.cli(['follow', '-D', node.directory, upstream.conninfo]);
  assert.equal(followed.code, 0, followed.stderr);
}

/** The connections that must stay: of the nodes' downstreams, and of the standbys' receivers. */
async function connections(
  nodes: readonly WalcadeNode[],
  standbys: readonly PostgresCluster[],
): Promise<unknown> {
  return {
    sessions: await Promise.all(
      nodes.map(async (node) =>
        (await node.status()).downstreams.map((d) => `${d.applicationName} ${d.pid}`),
      ),
    ),
    receivers: await Promise.all(
      standbys.map((each) => waitFor(`receiver of ${each.name}`, () => each.walReceiverPid())),
    ),
  };
}

/** Inserts a row after the other where somebody takes writes, and counts what was committed. */
class Load {
  #server: SqlServer;
  #isStopping = false;
  committed = 0;
  readonly #run: Promise<void>;

  constructor(server: SqlServer) {
    this.#server = server;
    this.#run = this.#insert();
  }

  /** The rows go to `server` from now on. */
  async moveTo(server: SqlServer): Promise<void> {
    this.#server = server;
    await this.waitForRows(1);
  }

  async waitForRows(count: number): Promise<void> {
    const enough = this.committed + count;
    await waitFor(`${count} more rows`, () => Promise.resolve(this.committed >= enough));
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#run;
  }

  async #insert(): Promise<void> {
    while (!this.#isStopping) {
      const server = this.#server;
      try {
        await server.sql('INSERT INTO number VALUES (1)');
        this.committed++;
      } catch {
        // It stops; whether the row was committed is found out on who was promoted.
        const isMoved = (): boolean => this.#server !== server || this.#isStopping;
        await waitFor('the load to be moved', isMoved);
        this.committed = Number(await this.#server.sql('SELECT count(*) FROM number'));
      }
    }
  }
}
