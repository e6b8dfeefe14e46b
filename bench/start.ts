/** Question: how long does a node take from its start to ready, with stores of different sizes? */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { systemDisk } from '../src/base/disk.ts';
import { configTemplate, hbaTemplate } from '../src/config/config-template.ts';
import { ControlFile } from '../src/store/control-file.ts';
import { advance, lsn, timelineId } from '../src/wal/lsn.ts';
import { segmentName } from '../src/wal/segment.ts';
import type { TestDirectory } from '../test/harness/test-directory.ts';
import { buildWal } from '../test/harness/wal-builder.ts';

const PROGRAM = fileURLToPath(new URL('../bin/walcade', import.meta.url));
const SEGMENT_BYTES = 16 * 1024 * 1024;
const TIMELINE = timelineId(1);
const SYSTEM_IDENTIFIER = 7_500_000_000_000_000_001n;

/**
 * Makes a store of `gigabytes` whose last segment is full of records and was not closed cleanly, so
 * that all of that segment has to be walked; the older segments are sparse files.
 */
export async function makeStore(tree: TestDirectory, gigabytes: number): Promise<string> {
  const directory = await tree.makeDirectory(`store${gigabytes}`);
  const segments = Math.max(1, Math.round((gigabytes * 1e9) / SEGMENT_BYTES));
  const first = lsn(BigInt(SEGMENT_BYTES) * 16n);
  const last = advance(first, segments * SEGMENT_BYTES);
  await mkdir(join(directory, 'pg_wal'));
  await mkdir(join(directory, 'pg_replslot'));
  for (let i = 0; i < segments; i++) {
    const name = segmentName(TIMELINE, advance(first, i * SEGMENT_BYTES), SEGMENT_BYTES);
    const file = await open(join(directory, 'pg_wal', name), 'w');
    await file.truncate(SEGMENT_BYTES);
    await file.close();
  }
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

/** Seconds from starting the program to its line "ready"; the node is killed after that. */
export async function secondsToReady(directory: string): Promise<number> {
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
  return seconds;
}
