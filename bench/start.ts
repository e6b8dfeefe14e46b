/**
 * Question: how long does a node take from its start to ready, with stores of different sizes?
 * Beside it a PostgreSQL server that starts after a crash with as many segments in its pg_wal.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { systemDisk } from '../src/base/disk.ts';
import { configTemplate, hbaTemplate } from '../src/config/config-template.ts';
import { ControlFile } from '../src/store/control-file.ts';
import { type Lsn, advance, lsn, timelineId } from '../src/wal/lsn.ts';
import type { ServerUser } from '../src/postgres/server-user.ts';
import { segmentName } from '../src/wal/segment.ts';
import { PostgresCluster } from '../test/harness/postgres-cluster.ts';
import { postgresUser } from '../test/harness/postgres-binaries.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { buildWal } from '../test/harness/wal-builder.ts';
import type { Bench, BenchContext, Readings } from './frame.ts';

const PROGRAM = fileURLToPath(new URL('../bin/walcade', import.meta.url));
const SEGMENT_BYTES = 16 * 1024 * 1024;
const TIMELINE = timelineId(1);
const SYSTEM_IDENTIFIER = 7_500_000_000_000_000_001n;

const READY = 's to ready';

export const start: Bench = {
  name: 'start',
  question: 'How long does a node take from its start to ready, with stores of different sizes?',
  aims: [
    { what: named(1), unit: READY, atMost: 0.3 },
    { what: named(10), unit: READY, atMost: 0.3 },
    { what: named(100), unit: READY, atMost: 0.3 },
    { what: named(100), unit: READY, of: { what: named(1) }, atMost: 1.2 },
  ],
  run,
};

async function run({ tree, choose, alternate }: BenchContext): Promise<string> {
  for (const gigabytes of choose({ full: [1, 10, 100], short: [1, 10, 100], smoke: [1] })) {
    const directory = await makeStore(tree, gigabytes);
    const postgres = await makePostgres(tree, gigabytes);
    await alternate(named(gigabytes), {
      walcade: () => startNode(directory),
      PostgreSQL: () => startPostgres(postgres),
    });
  }
  return (
    'both were killed before; the other segments are sparse files, older ones of the node, ones ' +
    'made for later of PostgreSQL; the last segment of the node, full of records, is walked ' +
    'whole, PostgreSQL has next to nothing to replay'
  );
}

function named(gigabytes: number): string {
  return `${gigabytes} GB`;
}

/**
 * Makes a store of `gigabytes` whose last segment is full of records and was not closed cleanly, so
 * that all of that segment has to be walked; the older segments are sparse files.
 */
async function makeStore(tree: TestDirectory, gigabytes: number): Promise<string> {
  const directory = await tree.makeDirectory(`store${gigabytes}`);
  const segments = segmentsOf(gigabytes);
  const first = lsn(BigInt(SEGMENT_BYTES) * 16n);
  const last = advance(first, segments * SEGMENT_BYTES);
  await mkdir(join(directory, 'pg_wal'));
  await mkdir(join(directory, 'pg_replslot'));
  await makeSparseSegments(join(directory, 'pg_wal'), { first, segments });
  const wal = buildWal({
    major: 18,
    segmentBytes: SEGMENT_BYTES,
    start: last,
    timeline: TIMELINE,
    systemIdentifier: SYSTEM_IDENTIFIER,
    records: Array.from({ length: 120_000 }, () => ({ bodyBytes: 96 })),
  });
  const segment = Buffer.alloc(SEGMENT_BYTES);
  wal.copy(segment);
  await writeFile(join(directory, 'pg_wal', segmentName(TIMELINE, last, SEGMENT_BYTES)), segment);
  const port = await tree.reservePort();
  await writeFile(
    join(directory, 'walcade.conf'),
    configTemplate({
      port: `${port}`,
      cluster_name: 'bench',
      unix_socket_directories: '',
      primary_conninfo: 'host=127.0.0.1 port=1 user=postgres',
    }),
  );
  await writeFile(join(directory, 'walcade_hba.conf'), hbaTemplate());
  await ControlFile.create(systemDisk, directory, {
    nodeId: 'bench',
    systemIdentifier: SYSTEM_IDENTIFIER,
    segmentBytes: SEGMENT_BYTES,
    upstreamSettings: { server_version: '18.4', server_version_num: '180004' },
    timeline: TIMELINE,
    walk: { from: last, startsAt: 'segment' },
    flushed: last,
    cleanShutdown: false,
  });
  return directory;
}

/** A server that was killed, with `gigabytes` of segments that it has made for later. */
async function makePostgres(tree: TestDirectory, gigabytes: number): Promise<PostgresCluster> {
  const server = await PostgresCluster.init(tree, {
    name: `postgres${gigabytes}`,
    settings: { fsync: true, min_wal_size: '200GB', max_wal_size: '400GB' },
  });
  await makeSparseSegments(join(server.dataDirectory, 'pg_wal'), {
    first: lsn(BigInt(SEGMENT_BYTES) * 16n),
    segments: segmentsOf(gigabytes),
    user: await postgresUser(),
  });
  await server.start();
  await server.kill9();
  return server;
}

async function makeSparseSegments(
  directory: string,
  { first, segments, user }: { first: Lsn; segments: number; user?: ServerUser | undefined },
): Promise<void> {
  for (let i = 0; i < segments; i++) {
    const name = segmentName(TIMELINE, advance(first, i * SEGMENT_BYTES), SEGMENT_BYTES);
    const file = await open(join(directory, name), 'w');
    await file.truncate(SEGMENT_BYTES);
    if (user !== undefined) await file.chown(user.uid, user.gid);
    await file.close();
  }
}

function segmentsOf(gigabytes: number): number {
  return Math.max(1, Math.round((gigabytes * 1e9) / SEGMENT_BYTES));
}

/** Seconds from starting the server to its word that it is ready; it is killed after that. */
async function startPostgres(server: PostgresCluster): Promise<Readings> {
  const pidFile = join(server.dataDirectory, 'postmaster.pid');
  const began = performance.now();
  await server.start({ wait: false });
  for (;;) {
    const lines = (await readFile(pidFile, 'utf8').catch(() => '')).split('\n');
    if (lines[0] === `${server.pid}` && lines[7]?.trim() === 'ready') break;
    if (!server.isRunning) await server.waitUntilReady();
    await setImmediate();
  }
  const seconds = (performance.now() - began) / 1000;
  await server.kill9();
  return { [READY]: seconds };
}

/** Seconds from starting the program to its line "ready"; the node is killed after that. */
async function startNode(directory: string): Promise<Readings> {
  const began = performance.now();
  const child = spawn(process.execPath, [PROGRAM, 'run', '-D', directory], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  child.stderr.on('data', (text: Buffer) => {
    said += text.toString();
  });
  const exited = once(child, 'exit');
  const [text] = (await Promise.race([once(child.stdout, 'data'), exited])) as [unknown];
  const seconds = (performance.now() - began) / 1000;
  if (!String(text).startsWith('ready')) throw new Error(`the node did not start:\n${said}`);
  child.kill('SIGKILL');
  await exited;
  return { [READY]: seconds };
}
