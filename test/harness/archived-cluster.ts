/**
 * A primary that archives its WAL, and what nodes that read the archive are made of. Segments are
 * of 1 MB, and the primary keeps none but what slots ask for.
 */
import { existsSync } from 'node:fs';
import { chown } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Lsn, advance, parseLsn } from '../../src/wal/lsn.ts';
import { segmentStart } from '../../src/wal/segment.ts';
import { type LoadPrimary, loadPrimary } from './load-primary.ts';
import { postgresUser } from './postgres-binaries.ts';
import type { PostgresCluster, Settings } from './postgres-cluster.ts';
import { waitFor } from './wait.ts';
import { WalcadeNode } from './walcade-node.ts';

const SEGMENT_BYTES = 1024 * 1024;

export interface ArchivedCluster extends LoadPrimary {
  /** The directory of the archive. */
  archive: string;
  /** What reads it. */
  restoreCommand: string;
}

/** It runs. `archives` is the shell's pattern of the files that are archived. */
export async function archivedCluster(
  t: TestContext,
  { archives = '*' }: { archives?: string } = {},
): Promise<ArchivedCluster> {
  const { tree, primary } = await loadPrimary(t, {});
  const archive = await tree.makeDirectory('archive');
  const user = await postgresUser();
  if (user !== undefined) await chown(archive, user.uid, user.gid);
  await primary.configure(archiving(archive, archives));
  await primary.restart();
  return { tree, primary, archive, restoreCommand: `cp ${archive}/%f %p` };
}

function archiving(archive: string, archives: string): Settings {
  const copy = `cp %p ${archive}/%f.new && mv ${archive}/%f.new ${archive}/%f`;
  return {
    archive_mode: true,
    archive_command: `case %f in ${archives}) ${copy};; esac`,
  };
}

/** A relay of the primary without a slot there, that reads the archive too; it is not started. */
export async function archiveRelay(
  { tree, primary, restoreCommand }: ArchivedCluster,
  settings: Record<string, string> = {},
): Promise<WalcadeNode> {
  return WalcadeNode.init(tree, {
    name: 'relay',
    upstream: primary.conninfo,
    args: ['--no-slot'],
    settings: {
      restore_command: restoreCommand,
      wal_retrieve_retry_interval: '200ms',
      ...settings,
    },
  });
}

/** Writes rows, ends the segment and waits until it is archived; gives where the next begins. */
export async function fillSegment(server: PostgresCluster, archive: string): Promise<Lsn> {
  await server.sql(
    `INSERT INTO load (payload) SELECT repeat(md5(i::text), 20) FROM generate_series(1, 300) i`,
  );
  const [name = '', switchEnd = ''] = (
    await server.sql('SELECT pg_walfile_name(lsn), lsn FROM pg_switch_wal() lsn')
  ).split('|');
  await waitFor(`${name} in the archive`, () => existsSync(join(archive, name)));
  const start = segmentStart(parseLsn(switchEnd), SEGMENT_BYTES);
  return advance(start, SEGMENT_BYTES);
}
