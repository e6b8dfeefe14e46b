/**
 * `npm run bench [-- --short] [-- catch-up | ingest | start | sql | promotion …]`: measures
 * walcade beside PostgreSQL in one run on one machine, A and B in turn, and prints and writes down
 * medians and ranges.
 *
 * Results go to bench/results/NAME.json and into the tables of docs/performance.md.
 */
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { TestDirectory } from '../test/harness/test-directory.ts';
import { catchUpFromPostgres, catchUpFromRelay } from './catch-up.ts';
import { bareStream, relayIngest, standbyIngest } from './ingest.ts';
import { type PromotionTimes, promoteNode, promotePostgres } from './promotion.ts';
import { writePerformance } from './report.ts';
import { makePrimary, makeRelay, makeWal } from './servers.ts';
import { makeStore, secondsToReady } from './start.ts';
import { makeSqlServers, selectsPerSecond } from './sql.ts';
import { summary } from './summary.ts';

export interface Figure {
  what: string;
  unit: string;
  values: number[];
}

export interface BenchResult {
  name: string;
  question: string;
  conditions: string;
  figures: Figure[];
}

const isShort = process.argv.includes('--short');
const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith('--'));
const RUNS = isShort ? 2 : 5;
const WAL_MEGABYTES = isShort ? 200 : 600;

/** Collects the values of one figure over the runs. */
class Figures {
  readonly #figures = new Map<string, Figure>();

  add(what: string, unit: string, value: number | undefined): void {
    if (value === undefined) return;
    const key = `${what} ${unit}`;
    const figure = this.#figures.get(key) ?? { what, unit, values: [] };
    figure.values.push(value);
    this.#figures.set(key, figure);
  }

  all(): Figure[] {
    return [...this.#figures.values()];
  }
}

async function catchUp(tree: TestDirectory): Promise<BenchResult> {
  const primary = await makePrimary(tree);
  const range = await makeWal(primary, WAL_MEGABYTES);
  const relay = await makeRelay(tree, primary, range);
  const figures = new Figures();
  for (const readers of [1, 4, 16]) {
    // A round before the counted ones: caches are filled and code is compiled on both sides.
    await catchUpFromPostgres(primary, readers, range);
    await catchUpFromRelay(relay, readers, range);
    for (let run = 0; run < RUNS; run++) {
      const postgres = await catchUpFromPostgres(primary, readers, range);
      const walcade = await catchUpFromRelay(relay, readers, range);
      const name = `${readers} reader${readers === 1 ? '' : 's'}`;
      figures.add(`${name}: PostgreSQL`, 'CPU s/GB', postgres.cpuPerGb);
      figures.add(`${name}: walcade`, 'CPU s/GB', walcade.cpuPerGb);
      figures.add(`${name}: ratio`, 'CPU', walcade.cpuPerGb / postgres.cpuPerGb);
      figures.add(`${name}: PostgreSQL`, 'MB/s in all', postgres.megabytesPerSecond);
      figures.add(`${name}: walcade`, 'MB/s in all', walcade.megabytesPerSecond);
      const speed = walcade.megabytesPerSecond / postgres.megabytesPerSecond;
      figures.add(`${name}: ratio`, 'MB/s', speed);
      if (readers === 16) figures.add(`${name}: walcade`, 'MB resident', walcade.residentMb);
    }
  }
  return {
    name: 'catch-up',
    question:
      'What does it cost the sending server to serve WAL to readers that catch up, beside ' +
      "PostgreSQL's WAL senders?",
    conditions:
      `${Math.round(range.bytes / 1e6)} MB of WAL to each reader over TCP on loopback; ` +
      'readers in one process that throws WAL away; ' +
      "memory is the node's peak, other downstreams included",
    figures: figures.all(),
  };
}

async function ingest(tree: TestDirectory): Promise<BenchResult> {
  const primary: PostgresCluster = await makePrimary(tree);
  const backup = await primary.backup(join(tree.path, 'backup'));
  const range = await makeWal(primary, WAL_MEGABYTES);
  const figures = new Figures();
  for (let run = 0; run < RUNS; run++) {
    const bare = await bareStream(primary, range);
    const walcade = await relayIngest(tree, primary, { range, run });
    const standby = await standbyIngest(tree, primary, { range, run, backup });
    figures.add('bare stream', 'MB/s', bare.megabytesPerSecond);
    figures.add("standby's WAL receiver", 'MB/s', standby.megabytesPerSecond);
    figures.add('walcade', 'MB/s', walcade.megabytesPerSecond);
    const ratio = walcade.megabytesPerSecond / standby.megabytesPerSecond;
    figures.add('ratio to the standby', 'MB/s', ratio);
    figures.add("standby's WAL receiver", 'CPU s/GB', standby.cpuPerGb);
    figures.add('walcade', 'CPU s/GB', walcade.cpuPerGb);
    figures.add('walcade', 'MB resident', walcade.residentMb);
  }
  const megabytes = Math.round(range.bytes / 1e6);
  return {
    name: 'ingest',
    question:
      "How fast is WAL received, proven and made durable, beside a standby's WAL receiver, which " +
      'proves nothing?',
    conditions: `${megabytes} MB of WAL; walcade's time and CPU include its start`,
    figures: figures.all(),
  };
}

async function start(tree: TestDirectory): Promise<BenchResult> {
  const figures = new Figures();
  for (const gigabytes of isShort ? [1, 10] : [1, 10, 100]) {
    const directory = await makeStore(tree, gigabytes);
    for (let run = 0; run < RUNS; run++) {
      figures.add(`${gigabytes} GB`, 's to ready', await secondsToReady(directory));
    }
  }
  return {
    name: 'start',
    question: 'How long does a node take from its start to ready, with stores of different sizes?',
    conditions: 'older segments are sparse files; the last one, full of records, is walked whole',
    figures: figures.all(),
  };
}

async function sql(tree: TestDirectory): Promise<BenchResult> {
  const { primary, node } = await makeSqlServers(tree, await makePrimary(tree));
  const seconds = isShort ? 3 : 10;
  const figures = new Figures();
  await selectsPerSecond(primary.port, 2);
  await selectsPerSecond(node.port, 2);
  for (let run = 0; run < RUNS; run++) {
    const straight = await selectsPerSecond(primary.port, seconds);
    const through = await selectsPerSecond(node.port, seconds);
    figures.add('straight to PostgreSQL', 'transactions/s', straight);
    figures.add('through the node', 'transactions/s', through);
    figures.add('ratio', 'transactions/s', through / straight);
  }
  return {
    name: 'sql',
    question: "How much of PostgreSQL's rate of short queries is left through the node's port?",
    conditions:
      `pgbench -S -c 8 -j 2 over TCP on loopback, ${seconds} s a run; client, node and server ` +
      'share the cores',
    figures: figures.all(),
  };
}

async function promotion(tree: TestDirectory): Promise<BenchResult> {
  const primary = await PostgresCluster.init(tree, { name: 'primary' });
  await primary.start();
  await primary.sql('CREATE TABLE promoted (value int)');
  const backup = await primary.backup(join(tree.path, 'backup'));
  const figures = new Figures();
  const note = (who: string, { commandMs, rowMs, isSameReceiver }: PromotionTimes): void => {
    figures.add(`${who}: writes accepted`, 'ms', commandMs);
    figures.add(`${who}: first row below`, 'ms', rowMs);
    figures.add(`${who}: reconnects below`, 'count', isSameReceiver ? 0 : 1);
  };
  for (let run = 0; run < RUNS; run++) {
    const postgres = await promotePostgres(tree, { primary, backup, run });
    const walcade = await promoteNode(tree, { primary, backup, run });
    note('PostgreSQL', postgres);
    note('walcade', walcade);
    figures.add('ratio', 'ms to the row', walcade.rowMs / postgres.rowMs);
  }
  return {
    name: 'promotion',
    question:
      'How long is it from the command that promotes the middle of a cascade to the first new ' +
      'row on a standby below it?',
    conditions:
      'pg_ctl promote of a standby, walcade promote of a node, each with a PostgreSQL standby ' +
      'below; the commands are started as a person starts them, their own start included',
    figures: figures.all(),
  };
}

const BENCHES = { 'catch-up': catchUp, ingest, start, sql, promotion };

for (const name of wanted) {
  if (name in BENCHES) continue;
  process.stderr.write(
    `there is no bench "${name}"; there are ${Object.keys(BENCHES).join(', ')}\n`,
  );
  process.exit(2);
}

const results: BenchResult[] = [];
for (const [name, bench] of Object.entries(BENCHES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const tree = await TestDirectory.open();
  let hasFailed = true;
  try {
    const result = await bench(tree);
    hasFailed = false;
    results.push(result);
    process.stdout.write(`\n${result.question}\n(${result.conditions})\n`);
    for (const { what, unit, values } of result.figures) {
      const { median, low, high } = summary(values);
      process.stdout.write(`  ${`${what}, ${unit}`.padEnd(44)} ${median} (${low} to ${high})\n`);
    }
  } finally {
    await tree.close({ hasFailed });
  }
}

const directory = fileURLToPath(new URL('results/', import.meta.url));
if (!isShort) {
  await mkdir(directory, { recursive: true });
  const machine = { processor: cpus()[0]?.model, cores: cpus().length, memory: totalmem() };
  for (const result of results) {
    const text = JSON.stringify({ ...result, machine, node: process.version }, undefined, 1);
    await writeFile(`${directory}${result.name}.json`, `${text}\n`);
  }
  await writePerformance(results);
}
