/**
 * Question: how much later does a commit arrive at the end of a chain of nodes than at the primary,
 * for each node, beside a chain of cascading standbys?
 */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { type PostgresTools, findTools } from '../test/harness/postgres-tools.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { Followers, percentile } from './followers.ts';
import { type Bench, type BenchContext, ProgramMissing, type Readings } from './frame.ts';
import {
  type BelowOptions,
  makeRestingPrimary,
  pgbench,
  startRelay,
  startStandby,
} from './pairs.ts';

const MEDIAN = 'ms a hop, p50';
const TAIL = 'ms a hop, p99';
const POSTGRES = 'PostgreSQL';
/** A commit each PAUSE_MS: the one before has arrived everywhere. */
const PAUSE_MS = 10;

export const hop: Bench = {
  name: 'hop',
  question:
    'How much later does a commit arrive at the end of a chain of nodes than at the primary, for ' +
    'each node, beside a chain of cascading standbys?',
  aims: [1, 2, 4].flatMap((length) =>
    [MEDIAN, TAIL].map((unit) => ({
      what: named(length),
      unit,
      of: { side: POSTGRES },
      atMost: 0.33,
    })),
  ),
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  const tools = await findTools(['pgbench']);
  if (tools === undefined) throw new ProgramMissing('pgbench');
  const seconds = choose({ full: 10, short: 4, smoke: 1 });
  const script = join(tree.path, 'commit.sql');
  await writeFile(script, `insert into committed values (1);\n\\sleep ${PAUSE_MS} ms\n`);
  const load: CommitLoad = { tools, script, seconds };
  const standbys = new Chain(tree, await makePrimary(tree, 'primary-standbys'), startStandby);
  const nodes = new Chain(tree, await makePrimary(tree, 'primary-nodes'), startNode);
  const standbysMax = choose({ full: 4, short: 2, smoke: 1 });
  for (const length of choose({ full: [1, 2, 4, 8], short: [1, 2], smoke: [1] })) {
    await nodes.extendTo(length);
    const measured: Record<string, Chain> = { walcade: nodes };
    if (length <= standbysMax) {
      await standbys.extendTo(length);
      measured[POSTGRES] = standbys;
    }
    const sides = Object.entries(measured).map(
      ([side, chain]) => [side, () => chain.measure(load)] as const,
    );
    await alternate(named(length), Object.fromEntries(sides));
    for (const chain of Object.values(measured)) await chain.endFollowers();
  }
  return (
    `a commit of one row every ${PAUSE_MS} ms, ${seconds} s a run; from its arrival at a reader ` +
    'on the primary to that at a reader on the last of the chain, both in one process; each ' +
    'chain has a primary of its own, which rests while the other is measured'
  );
}

function named(length: number): string {
  return `chain of ${length}`;
}

async function makePrimary(tree: TestDirectory, name: string): Promise<PostgresCluster> {
  const primary = await makeRestingPrimary(tree, name);
  await primary.sql('create table committed (number int)');
  return primary;
}

function startNode(
  tree: TestDirectory,
  _primary: PostgresCluster,
  options: BelowOptions,
): Promise<ServerBelow> {
  return startRelay(tree, options);
}

interface ServerBelow {
  readonly port: number;
  readonly conninfo: string;
}

interface CommitLoad {
  tools: PostgresTools;
  script: string;
  seconds: number;
}

/** Servers below a primary, each below the one before it. */
class Chain {
  readonly #tree: TestDirectory;
  readonly #primary: PostgresCluster;
  readonly #startBelow: typeof startNode;
  readonly #servers: ServerBelow[] = [];
  #followers: Followers | undefined;

  constructor(tree: TestDirectory, primary: PostgresCluster, startBelow: typeof startNode) {
    this.#tree = tree;
    this.#primary = primary;
    this.#startBelow = startBelow;
  }

  async extendTo(length: number): Promise<void> {
    while (this.#servers.length < length) {
      const { conninfo } = this.#last;
      const name = `${this.#primary.name}-${this.#servers.length + 1}`;
      const options = { name, upstream: conninfo };
      this.#servers.push(await this.#startBelow(this.#tree, this.#primary, options));
    }
  }

  /** How much later messages came at the end than at the primary, for each server between. */
  async measure({ tools, script, seconds }: CommitLoad): Promise<Readings> {
    const primary = this.#primary;
    const where = { primary, port: this.#last.port, readers: 1 };
    this.#followers ??= await Followers.start(this.#tree, where);
    const { atReference, atLast } = await this.#followers.during(() =>
      pgbench(tools, primary, { clients: 1, seconds, script }),
    );
    const hops = atLast.map(
      (ms, index) => (ms - (atReference[index] as number)) / this.#servers.length,
    );
    return { [MEDIAN]: percentile(hops, 0.5), [TAIL]: percentile(hops, 0.99) };
  }

  async endFollowers(): Promise<void> {
    await this.#followers?.end();
    this.#followers = undefined;
  }

  get #last(): ServerBelow {
    return this.#servers.at(-1) ?? this.#primary;
  }
}
